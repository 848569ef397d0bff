"""The service's side of the `sandbox`: processes that run one query each at a time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import pyarrow as pa

from lakehouse_lib.serve import sandbox
from lakehouse_lib.storage import delta


class Pool:
    """Processes that run one query each at a time, and are replaced when they have to be killed."""

    def __init__(self, size: int):
        self.idle: queue.Queue[_Process] = queue.Queue()
        self.all: set[_Process] = set()
        self._closed = False
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        process = _Process()
        self.all.add(process)
        self.idle.put(process)

    def _replace(self, process: _Process) -> None:
        process.kill()
        self.all.discard(process)
        if not self._closed:
            self._start()

    def ask(self, request: dict[str, Any], seconds: float) -> sandbox.Answer:
        """Run a query in one of the processes.

        Raises
        ------
        Denied
            The query was rejected, failed, or was stopped.
        """
        deadline = time.monotonic() + seconds
        try:
            while (process := self.idle.get(timeout=max(0.0, deadline - time.monotonic()))).popen.poll() is not None:
                self._replace(process)  # it died while idle
        except queue.Empty:
            raise sandbox.Denied("busy", "All query processes are busy; try again.") from None
        try:
            head, body = process.ask(json.dumps(request).encode(), deadline)
        except (TimeoutError, EOFError, OSError) as error:
            self._replace(process)
            if isinstance(error, TimeoutError):
                raise sandbox.Denied("timeout", f"The query was stopped after {seconds:.1f} seconds.") from None
            raise sandbox.Denied("too_large", "The query needed more resources than allowed and was stopped.") from None
        self.idle.put(process)
        if "code" in head:
            raise sandbox.Denied(head["code"], head["message"])
        return sandbox.Answer(pa.ipc.open_stream(body).read_all(), head["truncated"], head["versions"])

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for process in list(self.all):
            process.kill()


class _Process:
    def __init__(self) -> None:
        command = [sys.executable, "-m", "lakehouse_lib.serve.sandbox"]
        # The process inherits none of the service's secrets.
        environment = {
            name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ
        }
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, stderr=subprocess.DEVNULL
        )
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self.stdin, self.stdout = self.popen.stdin, self.popen.stdout
        self.lock = threading.Lock()

    def ask(self, request: bytes, deadline: float) -> tuple[dict[str, Any], bytes]:
        with self.lock:
            sandbox.send(self.stdin, request)
            return json.loads(self._read(deadline)), self._read(deadline)

    def _read(self, deadline: float) -> bytes:
        return self._read_exactly(struct.unpack(">I", self._read_exactly(4, deadline))[0], deadline)

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        parts, pipe = [], self.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                part = os.read(pipe, min(size, 1 << 20))
                if not part:
                    raise EOFError
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def tables_for(sql: str, published: dict[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return the tables of a request, from the published ones (name: layer, path). Those that the SQL mentions are
    pinned to their current version, so that the query reads a consistent state of each."""
    text, request_tables = sql.lower(), {}
    for name, (layer, path) in published.items():
        delta_table = delta.open_table(path) if name in text else None
        request_tables[name] = {"layer": layer, "path": path, "version": delta_table.version() if delta_table else None}
    return request_tables
