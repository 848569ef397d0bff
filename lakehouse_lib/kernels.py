"""Kernels for the notebooks of a run: forked from one process that has already imported their libraries.

A newly started kernel needs well over a second for its imports, most of the time of a small notebook.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from queue import Empty
from typing import Any, cast

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

_IMPORTED = ["ipykernel.kernelapp", "ipykernel.zmqshell", "ipykernel.debugger", "pyspark.sql.connect.session"]
_IMPORTED += [f"lakehouse_lib.{name}" for name in (
    "serve.page", "flow.pipeline", "serve.plots", "trust.profiles", "care.maintenance", "care.health"
)]  # fmt: skip
# The first two are what a child needs to find its main module and `_kernel`.
_IMPORTED += ["lakehouse_lib.cli", "lakehouse_lib.kernels", "lakehouse_lib.preloaded"]

_FORKS = sys.platform == "linux"
"""On other systems loaded libraries may not survive a fork, so each kernel is started in the usual way."""

_server = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start importing in the background."""
    if not _FORKS:
        return
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # or ipykernel's debugger warns in the terminal
    _server.set_forkserver_preload(_IMPORTED)
    forkserver.ensure_running()


class Manager(AsyncKernelManager):
    """A kernel manager that forks its kernels if that is safe."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if _FORKS:
            self.provisioner = _Forked(kernel_spec=self.kernel_spec, parent=self)
            self.client_factory = _Client


class _Client(AsyncKernelClient):
    """A client that starts as soon as the kernel answers; its base class waits another 0.2 s."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.context.setsockopt(zmq.RECONNECT_IVL, 5)  # milliseconds between attempts; default: 100

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        deadline = time.monotonic() + (timeout or float("inf"))
        while time.monotonic() < deadline:
            self.kernel_info()
            if not await self.is_alive():
                raise RuntimeError("The kernel ended before it was ready.")
            try:
                reply = await self.get_shell_msg(timeout=1)
                await self.get_iopub_msg(timeout=0.2)  # shows that outputs reach this client
            except Empty:
                continue
            self._handle_kernel_info_reply(reply)
            return
        raise RuntimeError(f"The kernel did not answer within {timeout} seconds.")


class _Forked(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.cwd = kwargs.get("cwd") or os.getcwd()
        self.process: Any = _Process(cmd[cmd.index("-f") :], kwargs["env"], self.cwd)
        self.pid = self.pgid = self.process.pid
        return self.connection_info

    async def kill(self, restart: bool = False) -> None:
        await super().kill(restart)
        if self.process:
            self.process.wait(timeout=5)  # its manager would check only ten times a second


class _Process:
    """A kernel's process, with the interface that the provisioner expects."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str):
        # As a daemon it ends with the process that started it.
        self._process = _server.Process(target=_kernel, args=(arguments, environment, folder), daemon=True)
        self._process.start()
        self.pid = cast("int", self._process.pid)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    os.setsid()  # Ctrl-C goes to the run, which ends its kernels
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    sys.argv = ["ipykernel", *arguments]
    import pandas
    from ipykernel.kernelapp import launch_new_instance

    # pandas was imported outside a notebook, where it shows fewer columns.
    pandas.set_option("display.max_columns", 20)
    launch_new_instance(arguments)


def _end_with_the_run() -> None:
    """End this kernel with its run: a run that is killed cannot end its kernels."""
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)
