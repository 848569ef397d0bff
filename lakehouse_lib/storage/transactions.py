"""Shared by both writers of Delta: retries, watermarks, and the merge condition."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError

from lakehouse_lib.storage.delta import Consumed, watermark

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5
FINGERPRINT = "fingerprint"
"""Transaction id under which a table stores the number of its fingerprint."""
_CONFLICTS = ("DELTA_CONCURRENT", "already exists")
"""How Spark and delta-rs report that another writer committed first."""


@dataclass(frozen=True)
class Match:
    """Which rows of a table match which rows of a merge."""

    keys: dict[str, str]
    """Columns of the table, and the source's columns that must equal them."""
    days: tuple[str, str] | None = None
    """The partition column, and the days to search, as `dates` formats them."""
    flagged: bool = False
    """Match only flagged rows; these are deleted and never updated."""

    def condition(self, quote: str, size: str) -> str:
        """Return the condition in SQL over ``t``, the table, and ``s``, the source. ``quote`` is the dialect's quote
        for names, ``size`` its function for the length of an array."""
        name = f"{quote}{{}}{quote}".format
        conditions = [f"t.{name(column)} = s.{name(source_column)}" for column, source_column in self.keys.items()]
        if self.days:
            column, days = self.days
            conditions.append(f"t.{name(column)} IN ({days})" if days else "false")
        if self.flagged:
            conditions.append(f"{size}(t._quality_flags) > 0")
        return " AND ".join(conditions)


def retried(action: Callable[[], T], target: str) -> T:
    """Run a write, and retry it if another writer committed first."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:
            conflict = isinstance(error, CommitFailedError) or any(word in str(error) for word in _CONFLICTS)
            if not conflict or attempt == ATTEMPTS:
                raise
            log.warning("%s: another writer committed first, attempt %d", target, attempt + 1)
            time.sleep(random.uniform(0.2, 0.5) * 2**attempt)
    raise AssertionError


def dates(days: Iterable[date | str]) -> str:
    """Format days as a list of SQL dates."""
    return ", ".join(f"DATE'{day}'" for day in sorted({str(day) for day in days}))


def first_watermark(consumed: Iterable[Consumed]) -> list[Consumed]:
    """Return the watermark that shows whether a write has already been done; a fingerprint does not show it."""
    return [item for item in consumed if item.app_id != FINGERPRINT][:1]


def is_known(target: DeltaTable, consumed: Iterable[Consumed]) -> bool:
    """Return whether a table has already read the first of its sources this far."""
    known = ((watermark(target, item.app_id), item.version) for item in first_watermark(consumed))
    return any(read_version is not None and read_version >= version for read_version, version in known)


def properties(consumed: Iterable[Consumed], info: dict[str, Any] | None) -> CommitProperties:
    """Return the metadata of a delta-rs commit, with all of its watermarks."""
    return CommitProperties(
        app_transactions=[Transaction(item.app_id, item.version) for item in consumed],
        custom_metadata={"userMetadata": json.dumps(info)} if info else None,
    )
