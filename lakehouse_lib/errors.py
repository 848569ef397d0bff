"""Errors for people: one class per kind of failure; the message says what to do next."""


class LakehouseError(Exception):
    """Something a person has to look at; shown without a stack trace, in notebooks too."""

    exit_status = 1

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a stack trace."""
        return [f"{type(self).__name__}: {self}"]


class SetupError(LakehouseError):
    """The machine lacks something: Java, a jar, a free port."""


class ConfigError(LakehouseError):
    """A setting, parameter or declaration is wrong; nothing was started."""

    exit_status = 2


class UnknownTableError(ConfigError):
    """There is no table of that name."""


class EngineError(LakehouseError):
    """The Spark engine cannot be reached or died."""


class LandingError(LakehouseError):
    """Input that cannot be loaded: a broken file, or one that changed after it was loaded."""


class LedgerError(LakehouseError):
    """A run whose records do not add up."""


class QualityError(LakehouseError):
    """All went through, but a check of severity `error` fails."""

    exit_status = 3


class LockedError(LakehouseError):
    """Another run holds this lakehouse."""


class TableError(LakehouseError):
    """A table is missing, or is not what the operation needs."""


class NotMadeError(TableError):
    """A table is declared, and no run has made it yet."""
