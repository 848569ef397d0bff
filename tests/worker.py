"""Work in a separate process that tests kill: ``python tests/worker.py SETTINGS_JSON [WORK TABLE]``, or a `Worker`.

WORK is ``run`` (the default), ``replay`` of a table's quarantine, or ``archive``: its rows are
archived and restored in an endless loop.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lakehouse_lib import config, kernels
from lakehouse_lib.care import maintenance, quarantine
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LakehouseError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.storage import archive


def main(values: str, work: str = "run", *names: str) -> None:
    settings = config.load(json.loads(values))
    try:
        if work == "replay":
            quarantine.replay(settings, *names)
        elif work == "archive":
            table = tables.get(settings, *names)
            while True:
                archive.restore(settings, table)
                print("restored", flush=True)
                maintenance.retention(settings, table)
                print("archived", flush=True)
        else:
            pipeline.run(settings).check()
    except LakehouseError as error:
        sys.exit(str(error))
    finally:
        session.release(settings)


class Worker:
    """The work in a process that is forked from one that has imported the library: a kill meets the work, and not the
    imports."""

    def __init__(self, values: dict[str, Any], *work: str):
        kernels.prepare()
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._output = Path(file.name)
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_redirected, args=(str(self._output), dict(os.environ), json.dumps(values), *work), daemon=True
        )
        self._process.start()

    def wait_for(self, text: str) -> None:
        """Wait until the work has printed a text."""
        while text not in self._output.read_text():
            assert self._process.is_alive(), self._output.read_text()
            time.sleep(0.01)

    def kill_after(self, seconds: float) -> None:
        """Send SIGKILL after so many seconds, unless the work has ended before."""
        self._process.join(seconds)
        self._process.kill()
        self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end; returns the exit status and what was printed."""
        self._process.join(300)
        status, output = self._process.exitcode, self._output.read_text()
        self._output.unlink()
        assert status is not None, "the work does not end"
        return status, output


def _redirected(output: str, environment: dict[str, str], *arguments: str) -> None:
    os.environ.clear()  # it is that of the test that was the first to fork
    os.environ.update(environment)
    with open(output, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
