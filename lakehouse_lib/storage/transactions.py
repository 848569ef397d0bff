"""What both writers of Delta share: retries, watermarks, and how rows to change are found."""

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
"""Transaction id under which a table remembers by what it was made."""
_CONFLICTS = ("DELTA_CONCURRENT", "already exists")
"""How Spark and delta-rs say that another writer was faster."""


@dataclass(frozen=True)
class Match:
    """Which rows of a table meet which rows of a merge."""

    keys: dict[str, str]
    """Columns of the table, and those of the source that equal them."""
    days: tuple[str, str] | None = None
    """The partition column, and the days to look in, as `dates` writes them."""
    flagged: bool = False
    """Only rows that carry a flag; these are deleted and never updated."""

    def condition(self, quote: str, size: str) -> str:
        """The condition in a dialect's SQL, over ``t``, the table, and ``s``, the source: how it quotes names, and
        its function for the length of an array."""
        name = f"{quote}{{}}{quote}".format
        on = [f"t.{name(column)} = s.{name(other)}" for column, other in self.keys.items()]
        if self.days:
            column, days = self.days
            on.append(f"t.{name(column)} IN ({days})" if days else "false")
        if self.flagged:
            on.append(f"{size}(t._quality_flags) > 0")
        return " AND ".join(on)


def retried(action: Callable[[], T], what: str) -> T:
    """Run a write again where another writer was faster."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:
            conflict = isinstance(error, CommitFailedError) or any(word in str(error) for word in _CONFLICTS)
            if not conflict or attempt == ATTEMPTS:
                raise
            log.warning("%s: another writer was faster, attempt %d", what, attempt + 1)
            time.sleep(random.uniform(0.2, 0.5) * 2**attempt)
    raise AssertionError


def dates(days: Iterable[date | str]) -> str:
    """Days as a list of SQL's dates."""
    return ", ".join(f"DATE'{day}'" for day in sorted({str(day) for day in days}))


def first_watermark(consumed: Iterable[Consumed]) -> list[Consumed]:
    """The watermark by which a write that was done already is known; a fingerprint is none."""
    return [item for item in consumed if item.app_id != FINGERPRINT][:1]


def is_known(target: DeltaTable, consumed: Iterable[Consumed]) -> bool:
    """Whether a table has read the first of its sources as far already."""
    known = ((watermark(target, item.app_id), item.version) for item in first_watermark(consumed))
    return any(before is not None and before >= version for before, version in known)


def properties(consumed: Iterable[Consumed], info: dict[str, Any] | None) -> CommitProperties:
    """What a commit of delta-rs says of itself, with all of its watermarks."""
    return CommitProperties(
        app_transactions=[Transaction(item.app_id, item.version) for item in consumed],
        custom_metadata={"userMetadata": json.dumps(info)} if info else None,
    )
