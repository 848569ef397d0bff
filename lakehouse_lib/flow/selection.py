"""Which tables a run is about, and which of them have something to do; no engine is started."""

from __future__ import annotations

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LandingError
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import inputs
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality


def selected(settings: Settings, layer: str | None = None) -> list[Table]:
    """The tables of a run, sources before targets."""
    everything = tables.declared(settings)
    names = settings.table_names()
    for name in names:
        tables.get(settings, name)
    chosen = [t for t in everything.values() if not names or t.name in names]
    if layer:
        with_layer = {"bronze": ("bronze", "quarantine")}.get(layer, (layer,))
        chosen = [t for t in chosen if t.layer in with_layer]
    return chosen


def check_days(settings: Settings) -> None:
    """Refuse days to compute again where no table of the run has any.

    Raises
    ------
    ConfigError
        It names the tables, and what to do.
    """
    if settings.has_days and not selected(settings, "gold"):
        raise ConfigError(
            f"date_from and date_to (--from, --to) say which days of gold tables are computed again, and "
            f"{settings.tables} is none. Name a gold table, or rebuild with full (--full)."
        )


def pending(settings: Settings, layer: str | None = None) -> list[str]:
    """Tables for which there is something to do, without starting Spark.

    A table downstream of one that is pending is not named unless it has work of its own.
    """
    unused = landing.not_in_use(settings)
    used = [table for table in selected(settings, layer) if table.name not in unused]
    if settings.full or settings.has_days or not settings.enable_delta:
        return [table.name for table in used]
    known = quality.latest(settings)
    return [
        table.name
        for table in used
        if is_pending(settings, table) or quality.due(settings, table, known.get(table.name, {}))
    ]


def is_pending(settings: Settings, table: Table) -> bool:
    """Whether a table has anything to read, or has not been made yet."""
    if table.layer == "bronze":
        return bool(landing.pending_files(settings, table)) or not delta.exists(settings, table)
    if not delta.exists(settings, table):
        return True
    if settings.has_days and table.layer == "gold":
        return True
    return any(state.changed for state in inputs.source_states(settings, table).values())


def stop_on_files(settings: Settings) -> None:
    """Raise where files wait in landing that no run can load.

    Raises
    ------
    LandingError
        It names each file, why it cannot be loaded, and what to do.
    """
    found = [sentence for table in selected(settings, "bronze") if table.layer == "bronze"
             for _, sentence in landing.problems(settings, table)]  # fmt: skip
    if found:
        raise LandingError("\n".join(found))
