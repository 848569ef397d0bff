"""Which tables a run covers, and which of them have work to do; no engine is started."""

from __future__ import annotations

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LandingError
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import inputs
from lakehouse_lib.layers.fingerprints import Book, book_of
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality


def selected(settings: Settings, layer: str | None = None) -> list[Table]:
    """The tables of a run, sources before targets."""
    declared = tables.declared(settings)
    names = settings.table_names()
    for name in (*names, *settings.dropping()):
        tables.get(settings, name)
    selection = [t for t in declared.values() if not names or t.name in names]
    if layer:
        layers = {"bronze": ("bronze", "quarantine")}.get(layer, (layer,))
        selection = [t for t in selection if t.layer in layers]
    return selection


def check_days(settings: Settings) -> None:
    """Refuse a date range if the run covers no gold table.

    Raises
    ------
    ConfigError
        The run covers no gold table; the message names its tables and what to do.
    """
    if settings.has_days and not selected(settings, "gold"):
        raise ConfigError(
            f"date_from and date_to (--from, --to) say which days of gold tables are computed again, and "
            f"{settings.tables} is none. Name a gold table, or rebuild with full (--full)."
        )


@delta.look()
def pending(settings: Settings, layer: str | None = None) -> list[str]:
    """Names of the tables with work to do, found without starting Spark.

    A table downstream of a pending one is listed only if it has work of its own.
    """
    unused = landing.not_in_use(settings)
    used = [table for table in selected(settings, layer) if table.name not in unused]
    if settings.full or settings.has_days or not settings.enable_delta:
        return [table.name for table in used]
    known, book = quality.latest(settings), book_of(settings)
    return [
        table.name
        for table in used
        if is_pending(settings, table, book) or quality.due(settings, table, known.get(table.name, {}))
    ]


def is_pending(settings: Settings, table: Table, book: Book | None = None) -> bool:
    """Whether a table has anything to read, does not exist yet, or, by ``book``, has changed code or settings."""
    if book and book.changes(table):
        return True
    if table.layer == "bronze":
        return bool(landing.pending_files(settings, table)) or not delta.exists(settings, table)
    if not delta.exists(settings, table):
        return True
    if settings.has_days and table.layer == "gold":
        return True
    return any(state.changed for state in inputs.source_states(settings, table).values())


def stop_on_files(settings: Settings) -> None:
    """Raise if landing holds files that no run can load.

    Raises
    ------
    LandingError
        There are such files; the message says for each why it cannot be loaded, and what to do.
    """
    sentences = [sentence for table in selected(settings, "bronze") if table.layer == "bronze"
                 for _, sentence in landing.problems(settings, table)]  # fmt: skip
    if sentences:
        raise LandingError("\n".join(sentences))
