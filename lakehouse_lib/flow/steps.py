"""What a run did, table by table."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from lakehouse_lib.errors import LakehouseError, LandingError, QualityError
from lakehouse_lib.flow import ledger
from lakehouse_lib.layers import columns
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.trust import checking


@dataclass
class Step:
    """What a run did to one table."""

    table: str
    state: str = "nothing new"
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    seconds: float = 0.0
    message: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Information for a person that needs no action."""
    version: int = -1
    ledger: list[ledger.Entry] = field(default_factory=list)
    """Rows of the ledger, and the metadata of their commits."""
    begun: bool = False
    """Whether there was anything to do."""
    columns: columns.Lineage | None = None
    """The lineage of the table's columns."""
    checks: list[checking.Result] = field(default_factory=list)
    """Results of the checks that ran in this step."""
    failing: list[str] = field(default_factory=list)
    """Messages of the `error` checks that currently fail, whenever they ran."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def line(self) -> str:
        """The step as one line of text."""
        if self.state == "nothing new" and not self.problems:
            return f"{self.table:<32} nothing new"
        if self.state in ("failed", "held"):
            return f"{self.table:<32} {self.state.upper()}: {self.message}"
        parts = [f"{self.counts[name]:,} {_WORDS[name]}" for name in COUNTS if self.counts[name]]
        if self.state == "rebuilt":  # records that the ledger has counted before do not count again
            change = sum(row["rows"] for row, _ in self.ledger)
            parts = ["rebuilt", f"{change:+,} rows" if change else "as many rows as before", *parts]
        return f"{self.table:<32} {' · '.join(parts) or 'no rows changed'}  ({self.seconds:.1f} s)"


_WORDS = dict(zip(COUNTS, ("read", "new", "updated", "duplicate", "quarantined", "unchanged"), strict=True))


@dataclass
class RunResult:
    """What a run did."""

    run_id: str
    steps: list[Step] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Everything that needs attention."""
        file_problems = [problem for step in self.steps for problem in step.problems]
        return file_problems + [f"{s.table}: {s.message}" for s in self.steps if s.state == "failed"]

    def balance(self) -> str:
        """One sentence for a run whose `check` raises nothing: that its records add up, if it read any."""
        read = any(step.counts["records_read"] for step in self.steps)
        return "It adds up." if read else "Nothing was read, so there is nothing to add up."

    def check(self) -> None:
        """Raise an error if the run had a problem.

        Raises
        ------
        LandingError
            Some files could not be loaded.
        LakehouseError
            A table failed.
        QualityError
            Nothing else went wrong, but a check of severity `error` fails.
        """
        failing = [sentence for step in self.steps for sentence in step.failing]
        failing += [f"{step.table} {step.message}" for step in self.steps if step.state == "held"]
        if self.problems:
            kind = LakehouseError if any(s.state == "failed" for s in self.steps) else LandingError
            raise kind("\n".join(self.problems + failing))
        if failing:
            raise QualityError("\n".join(failing))
