"""Errors for users: one class per kind of failure; the message says what to do next."""

import difflib
from collections.abc import Collection


class LakehouseError(Exception):
    """An error that needs a user's attention; shown without a stack trace, also in notebooks."""

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a stack trace."""
        return [f"{type(self).__name__}: {self}"]


class SetupError(LakehouseError):
    """The machine lacks something: Java, a jar, a free port."""


class ConfigError(LakehouseError):
    """A setting, parameter or declaration is invalid; nothing was started."""

    exit_status = 2


class UnknownTableError(ConfigError):
    """There is no table with that name."""


class ConfirmError(LakehouseError):
    """A run would rebuild more rows than it may without a person's word; nothing was started."""

    exit_status = 4


class EngineError(LakehouseError):
    """The Spark engine cannot be reached, or has died."""


class LandingError(LakehouseError):
    """Input that cannot be loaded: a broken file, or a file that changed after it was loaded."""


class LedgerError(LakehouseError):
    """The record counts of a run do not add up."""


class QualityError(LakehouseError):
    """Everything was processed, but a check with severity `error` fails."""

    exit_status = 3


class LockedError(LakehouseError):
    """Another run has locked this lakehouse."""


class TableError(LakehouseError):
    """A table is missing, or is not in the state that the operation needs."""


class NotMadeError(TableError):
    """A table is declared, but no run has created it yet."""


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the part of a message that suggests the closest of the known names, or else lists all of them."""
    closest = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {closest[0]}?" if closest else f"there are {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, shortened, or the name of its class if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
