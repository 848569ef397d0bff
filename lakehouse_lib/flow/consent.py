"""What a run does only with a person's word: rebuild many rows, and drop columns."""

from __future__ import annotations

from collections.abc import Iterable

from lakehouse_lib.config import Settings, command
from lakehouse_lib.errors import ConfigError, ConfirmError, TableError
from lakehouse_lib.layers import fingerprints
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta


def check(settings: Settings, wanted: Iterable[Table], book: Book) -> None:
    """Stop a run of some tables if it needs a person's word.

    Raises
    ------
    ConfirmError
        It would rebuild more rows than ``plan.confirm_rows``, and ``confirm`` is not set.
    TableError
        Columns are to be dropped from a table that cannot be rebuilt.
    ConfigError
        Columns are to be dropped from a table that takes its columns from its source.
    """
    if not settings.enable_delta or not (settings.plan.confirm_rows or settings.drop_columns):
        return
    rebuilt: dict[str, int] = {}
    for table in wanted:
        if table.name in settings.dropping() and table.name in {replica.target for replica in settings.cdc.replicas}:
            raise ConfigError(f"drop_columns: {table.name} takes its columns from its source and drops none.")
        opened = delta.opened(settings, table)
        if opened is None or not book.changes(table):
            continue
        obstacle = fingerprints.obstacle(settings, table)
        if obstacle and table.name in settings.dropping():
            raise TableError(f"{table.name} cannot be rebuilt without its undeclared columns, because {obstacle}.")
        rebuilt |= {} if obstacle else {table.name: opened.count()}
    if settings.confirm or settings.full or sum(rebuilt.values()) <= settings.plan.confirm_rows:
        return
    if settings.plan.confirm_rows:
        listed = ", ".join(f"{name} ({rows:,})" for name, rows in rebuilt.items())
        raise ConfirmError(
            f"This run would rebuild {sum(rebuilt.values()):,} rows, more than plan.confirm_rows = "
            f"{settings.plan.confirm_rows:,}: {listed}. Nothing was started. Why: {command('plan')}. To go on: "
            f"{command('run --confirm')}, or confirm: true in the parameters."
        )
