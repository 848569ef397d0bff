"""Helpers that the commands share: loading the settings, owning the engine, and choosing tables by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lakehouse_lib import config
from lakehouse_lib.config import Settings

if TYPE_CHECKING:
    from lakehouse_lib.model.tables import Table


def load_settings(**values: Any) -> Settings:
    """The settings, with ``values`` taking precedence. From here on the log is written to a file."""
    settings = config.load(values)
    config.log_to_file(settings)
    return settings


@contextlib.contextmanager
def owned_engine(settings: Settings) -> Iterator[None]:
    """Own the engine that this command and its kernels use; it stops at the end, unless others use it."""
    from lakehouse_lib.engines import session

    os.environ[session.OWNER_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        session.release(settings)


def chosen_tables(settings: Settings, name: str) -> list[Table]:
    """The table with this name, or every existing table if the name is empty."""
    from lakehouse_lib.model import tables
    from lakehouse_lib.storage import delta

    if name:
        return [tables.get(settings, name)]
    return [table for table in tables.declared(settings).values() if delta.exists(settings, table)]
