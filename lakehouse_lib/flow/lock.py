"""One run at a time on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LockedError

_LOCK_VARIABLE = "LAKEHOUSE_LOCK"


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Lock the lakehouse, so that only one run at a time works on it on this machine.

    Raises
    ------
    LockedError
        Another run holds the lock.
    """
    path = session.state_dir(settings) / "run.lock"
    if os.environ.get(_LOCK_VARIABLE) == str(path):
        yield
        return
    with session.exclusive(path, wait_seconds=0) as held:
        if not held:
            raise LockedError(
                f"Another run holds the lakehouse {settings.path()}. "
                "Wait for its end, then run again: nothing was changed."
            )
        os.environ[_LOCK_VARIABLE] = str(path)
        try:
            yield
        finally:
            del os.environ[_LOCK_VARIABLE]
