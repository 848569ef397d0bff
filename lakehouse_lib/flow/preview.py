"""A preview: a table as its present declaration, code and settings make it, beside the one that there is."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.dataset as ds
from deltalake import DeltaTable

from lakehouse_lib.catalog import history
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.engines import session
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.layers import refresh
from lakehouse_lib.layers.inputs import Inputs, source_states
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta, delta_rs


@dataclass(frozen=True)
class Preview:
    """How a table would differ if it were rebuilt."""

    path: str
    """Folder of the Delta table with the rows that it would have."""
    rows: int
    """How many they are."""
    difference: history.Difference
    """From the existing table to the preview."""

    @property
    def differs(self) -> bool:
        """Whether any row would."""
        return bool(self.difference.added or self.difference.removed or self.difference.changed)

    def text(self) -> str:
        """The preview for the terminal."""
        found = self.difference
        columns = [f"    {name} differs in {count:,}" for name, count in found.columns.items()]
        head = (
            f"{found.table} rebuilt from its present sources: {self.rows:,} rows; {found.added:,} added, "
            f"{found.removed:,} removed, {found.changed:,} changed"
        )
        examples = [found.examples.to_string(index=False, max_colwidth=40)] if self.differs else []
        return "\n".join([head, *columns, *examples, f"All of its rows: {self.path}"])


def preview(settings: Settings, name: str) -> Preview:
    """Make a table under ``ops/preview`` and compare it with the existing one, including archived rows.

    Its sources are read as they are: if they are to be rebuilt themselves, their rows are still the old ones.

    Raises
    ------
    ConfigError
        It is a bronze table, which is loaded from files.
    TableError
        The table or one of its sources has not been made.
    LockedError
        A run holds the lakehouse.
    """
    table = tables.get(settings, name)
    if table.layer == "bronze":
        raise ConfigError(f"{name} is loaded from files; a preview is of a table that is made from others.")
    with locked(settings):
        opened = delta.made(settings, table, "there is nothing to compare a preview with")
        for source in table.sources:
            delta.made(settings, tables.get(settings, source), f"{name} is made from it")
        path = f"{settings.layer_path('ops')}/preview/{name}"
        old = _make(settings, table, path) or delta.dataset(opened)
        new = delta.dataset(DeltaTable(path))
        difference = history.compare(table, old, new, opened.version(), opened.version() + 1)
        return Preview(path, new.count_rows(), difference)


def _make(settings: Settings, table: Table, path: str) -> ds.Dataset | None:
    """Write the table as it would be; if rows are archived, also write the existing ones and return them."""
    with session.opened(settings) as spark:
        inputs = Inputs(spark, settings, table, new_run_id(), source_states(settings, table), full=True)
        outcome = refresh.transformed(inputs)
        declared = outcome.table if isinstance(outcome, refresh.Difference) and outcome.table else table
        rows = refresh.stamped(inputs, refresh.described(inputs, outcome))
        delta_rs.write_shadow(rows.select(*declared.names), path)
        if not archive.batches(settings, table):
            return None
        delta_rs.write_shadow(inputs.current(), f"{path}.before")
        return delta.dataset(DeltaTable(f"{path}.before"))
