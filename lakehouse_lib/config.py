"""One settings object: environment variables, then parameters, then a parameters file, then defaults.

`load` rejects unknown and ill-typed settings before anything starts, and suggests the nearest name.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import re
import secrets
import shlex
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from lakehouse_lib.errors import ConfigError, suggestion

FILE_VARIABLE = "LAKEHOUSE_PARAMETERS"
"""Environment variable that names the parameters file; default: parameters/default.yml."""

Feed = Literal["app_events", "clickstream", "cdc_changes"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeedSettings(_Part):
    """How to find and read one feed's files."""

    path: str = Field(default="", description="folder or URL of the feed; '' = <landing_path>/<feed>")
    format: Literal["", "json", "csv", "parquet"] = Field(default="", description="'' = by each file's name")
    timezone: str = Field(default="UTC", description="zone of timestamps without an offset")
    select: dict[str, str] = Field(default_factory=dict, description="our column: Spark SQL expression over the record")


class Replica(_Part):
    """A source table of the CDC feed that is kept as a current-state silver table."""

    source_table: str = Field(description="table name as the changes carry it")
    target: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name of the silver table")
    keys: list[str] = Field(min_length=1, description="columns of its primary key")


class CdcSettings(_Part):
    """How source tables of the CDC feed map to tables."""

    users_table: str = Field(default="users", description="source table behind users_silver")
    users_key: str = Field(default="user_id", description="its key column")
    absent: Literal["unchanged", "null"] = Field(
        default="unchanged", description="what a flat update means by a column that its after_values leave out"
    )
    replicas: list[Replica] = Field(default_factory=list)

    @field_validator("absent", mode="before")
    @classmethod
    def _yaml_null(cls, value: Any) -> Any:
        return "null" if value is None else value


class SampleSettings(_Part):
    """The sample input; shares are fractions of the records of their feed."""

    rows: int = Field(default=0, ge=0, description="events that `lakehouse run --sample` writes; 0 = none")
    days: int = Field(default=14, ge=1, le=3650)
    seed: int = 42
    users: int = Field(default=0, ge=0, description="0 = one for each 100 rows")
    end: date | None = Field(default=None, description="day after the last one; None = today (UTC)")
    share_duplicates: float = Field(default=0.01, ge=0, le=1)
    share_late: float = Field(default=0.02, ge=0, le=1, description="delivered one to three days late")
    share_malformed: float = Field(default=0.001, ge=0, le=1)
    share_wrong_type: float = Field(default=0.001, ge=0, le=1)
    share_missing: float = Field(default=0.001, ge=0, le=1, description="a required field is absent")
    share_out_of_range: float = Field(default=0.0005, ge=0, le=1, description="impossible timestamps")
    share_new_fields: float = Field(default=0.01, ge=0, le=1, description="fields the contract lacks")
    share_redelivered: float = Field(default=0.01, ge=0, le=1, description="CDC changes sent again")


class SegmentSettings(_Part):
    """Thresholds of the user segments; see `gold.user_segments`."""

    vip_value: float = Field(default=500.0, gt=0, description="value of the last 90 days")
    active_days: int = Field(default=7, ge=1, description="seen within so many days: Active")
    active_events: int = Field(default=20, ge=1, description="and with so many events")
    inactive_days: int = Field(default=30, ge=1, description="not seen for more days: Inactive")


class PlanSettings(_Part):
    """What a run does about tables whose declaration, settings or code have changed."""

    confirm_rows: int = Field(
        default=0, ge=0, description="a run that would rewrite more rows stops, unless `confirm` is set; 0 = never"
    )


def _plain(name: str) -> AliasChoices:
    return AliasChoices(name.upper(), name)


class Settings(BaseSettings):
    """All settings of a run. Field names are the keys of the parameters files."""

    model_config = SettingsConfigDict(
        env_prefix="LAKEHOUSE_",
        env_nested_delimiter="__",
        extra="forbid",
        populate_by_name=True,
        nested_model_default_partial_update=True,
    )

    spark_master: str = Field(
        "",
        validation_alias=_plain("spark_master"),
        description="'' or native = Sail, without Java; local[N] = Spark on this machine; spark://host:port or "
        "sc://host:port = Spark elsewhere",
    )
    lakehouse_base_path: str = Field("./data", validation_alias=_plain("lakehouse_base_path"), min_length=1)
    landing_path: str = Field("", validation_alias=_plain("landing_path"))
    bronze_path: str = Field("", validation_alias=_plain("bronze_path"))
    silver_path: str = Field("", validation_alias=_plain("silver_path"))
    gold_path: str = Field("", validation_alias=_plain("gold_path"))
    log_level: Literal["DEBUG", "INFO", "WARN", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=_plain("log_level")
    )
    enable_delta: bool = Field(True, validation_alias=_plain("enable_delta"))
    auto_optimize: bool = Field(
        True,
        validation_alias=_plain("auto_optimize"),
        description="a run compacts, writes checkpoints and vacuums where it is worth it",
    )
    auto_archive: bool = Field(
        True,
        validation_alias=_plain("auto_archive"),
        description="a run archives rows that have passed their retention since they were loaded",
    )
    time_travel_retention_days: int = Field(30, ge=0, validation_alias=_plain("time_travel_retention_days"))
    vacuum_retention_days: int = Field(7, ge=0, validation_alias=_plain("vacuum_retention_days"))

    retention: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="table: days that rows are kept before the archive; 0 = for ever"
    )
    session_gap_minutes: int = Field(30, ge=1, description="a longer pause begins a new session")
    active_days: int = Field(30, ge=1, description="users seen within so many days are active")
    feeds: dict[Feed, FeedSettings] = Field(default_factory=dict)
    cdc: CdcSettings = Field(default_factory=CdcSettings)
    quality: dict[str, list[dict[str, Any]]] = Field(
        default_factory=dict, description="table: further checks; see model/kinds.py"
    )
    quality_samples: bool = Field(True, description="keep a few keys of failing rows with the results")
    profile_table: str = Field("app_events_silver", description="table that the quality notebook looks at closely")
    segments: SegmentSettings = Field(default_factory=SegmentSettings)
    sample: SampleSettings = Field(default_factory=SampleSettings)
    plan: PlanSettings = Field(default_factory=PlanSettings)

    openlineage_url: str = Field(
        "", validation_alias=_plain("openlineage_url"), description="'' = a file beside the run's notebooks"
    )

    api_cors_origins: list[str] = Field(default_factory=list, description="origins that browsers may ask the API from")
    api_max_rows: int = Field(1000, ge=1, description="rows of one answer of the API, at most")
    api_timeout_ms: int = Field(10_000, ge=1, description="time that a query of the API may take, at most")
    api_at_once: int = Field(8, ge=1, description="requests that read tables at once; further ones get 429")
    notify: str = Field(
        "", description="shell command that gets the summary as JSON when a run fails or the verdict changes"
    )
    driver_memory: str = Field("4g", pattern=r"^\d+[mg]$", description="most that the engine takes")
    engine_idle_minutes: float = Field(30, gt=0, description="the engine stops after so long")
    shuffle_partitions: int = Field(0, ge=0, description="of Spark; 0 = the number of cores")
    spark_conf: dict[str, str] = Field(
        default_factory=dict, description="further settings of a Spark that the lakehouse starts"
    )

    run_id: str = Field("", pattern=r"^[A-Za-z0-9_-]*$", description="'' = a new one")
    tables: str = Field("", description="comma-separated; '' = all")
    full: bool = Field(False, description="rebuild instead of increment")
    preview_days: int = Field(0, ge=0, description="last days of each table that 15_plan_preview compares; 0 = all")
    confirm: bool = Field(False, description="rebuild however many rows it takes; see plan.confirm_rows")
    drop_columns: str = Field(
        "", description="comma-separated tables: columns that are no longer declared are dropped, which rebuilds them"
    )
    date_from: date | None = Field(
        None, description="first day of the gold tables to compute again; without date_to: up to the last there is"
    )
    date_to: date | None = Field(
        None, description="last day of the gold tables to compute again; without date_from: from the first there is"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @field_validator(
        "enable_delta", "auto_optimize", "auto_archive", "quality_samples", "full", "confirm", mode="before"
    )
    @classmethod
    def _strict_bool(cls, value: Any) -> Any:
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return value
        raise ValueError("must be true or false")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("date_from", "date_to", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        return day_of(value)

    @model_validator(mode="after")
    def _in_order(self) -> Settings:
        if self.date_from and self.date_to and self.date_from > self.date_to:
            raise ValueError(
                f"date_from (--from) is {self.date_from}, which is after date_to (--to), {self.date_to}: swap them"
            )
        return self

    @model_validator(mode="after")
    def _no_settings_of_spark(self) -> Settings:
        if self.native and (ignored := [name for name in ("spark_conf", "shuffle_partitions") if getattr(self, name)]):
            raise ValueError(
                f"{ignored[0]} = {getattr(self, ignored[0])}: the native engine does not use it. Remove it, or select "
                "a Spark, for example spark_master: local[*]"
            )
        return self

    @property
    def has_days(self) -> bool:
        """Whether any days are to be computed again."""
        return bool(self.date_from or self.date_to)

    @property
    def native(self) -> bool:
        """Whether the native engine computes, and delta-rs commits."""
        return not self.spark_master or self.spark_master.startswith("native")

    @property
    def has_own_engine(self) -> bool:
        """Whether the lakehouse starts its own engine instead of using a running one."""
        return "sc://" not in self.spark_master and not self.spark_master.startswith("native://")

    def asks_for(self, day: date) -> bool:
        """Return whether a day is among those to compute again; an end that is not set is open."""
        return self.has_days and (self.date_from or date.min) <= day <= (self.date_to or date.max)

    # Paths -----------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """Return a path below the base path; a URL stays a URL, relative paths are relative to the project."""
        return _join(_absolute(self.lakehouse_base_path), *parts)

    def layer_path(self, layer: str) -> str:
        """Return the folder of a layer: ``bronze``, ``silver``, ``gold``, ``quarantine``, ``ops``, …"""
        override = getattr(self, f"{layer}_path", "")
        return _absolute(override) if override else self.path(layer)

    def feed(self, name: str) -> FeedSettings:
        """Return the settings of a feed, or the defaults."""
        return self.feeds.get(cast("Feed", name), FeedSettings())

    def feed_path(self, name: str) -> str:
        """Return the folder of a feed's landing files."""
        override = self.feed(name).path
        return _absolute(override) if override else _join(self.layer_path("landing"), name)

    def local_dir(self, *parts: str) -> Path:
        """Return a folder for notebooks and logs, created if missing; local even if the base path is a URL."""
        base = self.path()
        root = project_root() / "data" if "://" in base else Path(base)
        folder = root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def table_names(self) -> list[str]:
        """Return the tables that the run is limited to; empty for all."""
        return _listed(self.tables)

    def dropping(self) -> list[str]:
        """Return the tables that are to lose the columns that are no longer declared."""
        return _listed(self.drop_columns)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def day_of(value: Any) -> date | None:
    """Parse the value of a setting as a day; None if it is empty.

    Raises
    ------
    ValueError
        The value has none of the accepted forms.
    """
    if value in ("", None) or (isinstance(value, date) and not isinstance(value, datetime)):
        return value or None
    text, today = str(value).strip().lower(), datetime.now(UTC).date()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    try:
        if ago := re.fullmatch(r"-(\d{1,6})d", text):
            return today - timedelta(days=int(ago[1]))
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return date.fromisoformat(text)
    except (ValueError, OverflowError):
        pass  # not a day of the calendar
    raise ValueError("give a day as YYYY-MM-DD, today, yesterday, or -7d for seven days ago (days are UTC)")


def project_root() -> Path:
    """Return the workbook's folder: the nearest parent folder that contains its notebooks, else the checkout that
    this library is installed from, so that the command works from any folder."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[1]):
        if (folder / "notebooks" / "00_start_here.ipynb").is_file() and (folder / "parameters").is_dir():
            return folder
    return here


def new_run_id() -> str:
    """Return a run id that sorts by time, for example ``20260314T051502-3f9a``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def load(values: dict[str, Any] | None = None, file: str | Path | None = None) -> Settings:
    """Load settings from the environment, then ``values``, then the parameters file, then defaults.

    Parameters
    ----------
    values
        Settings by name, such as a notebook's parameters; ``""`` counts as not set.
    file
        A parameters file; None for the one that ``LAKEHOUSE_PARAMETERS`` names, else
        ``parameters/default.yml`` where it exists.

    Raises
    ------
    ConfigError
        A file is missing or not valid YAML, or a setting is unknown or of the wrong type.
    """
    _refuse_misspelt_variables()
    overrides = {key: value for key, value in (values or {}).items() if value != ""}
    merged = _merge(_read_file(file), overrides)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except SettingsError as error:
        raise ConfigError(_explain_json(error)) from None


def log_to_file(settings: Settings) -> None:
    """Send the library's log to ``logs/lakehouse.log``, so that it does not appear in outputs."""
    logging.basicConfig(
        filename=settings.local_dir("logs") / "lakehouse.log",
        level="WARNING" if settings.log_level == "WARN" else settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )


def environment_of(assignment: str) -> tuple[str, str]:
    """Return the environment variable and the value for one ``--set key=value``.

    Raises
    ------
    ConfigError
        The text has no ``=``, or the key is not a setting.
    """
    key, equals, value = assignment.partition("=")
    head, *rest = key.strip().split(".")
    if not equals or head not in Settings.model_fields:
        names = difflib.get_close_matches(head, Settings.model_fields, 1)
        raise ConfigError(
            f"--set {assignment}: expected a setting's name, '=' and its value"
            + (f". Did you mean {names[0]}?" if names else "")
        )
    kind = Settings.model_fields[head].annotation
    if rest and not (hasattr(kind, "model_fields") or getattr(kind, "__origin__", None) is dict):
        raise ConfigError(f"--set {assignment}: {head} has no nested settings; use --set {head}=VALUE")
    if rest and kind == dict[str, str]:
        # Its keys contain dots and capitals, which names of variables cannot.
        current = _as_object(os.environ.get(variable(head), ""))
        return variable(head), json.dumps(current | {".".join(rest): value})
    return "__".join([variable(head), *(part.upper() for part in rest)]), value


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"LAKEHOUSE_{name.upper()}"


def _as_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


_OTHER_VARIABLES = (FILE_VARIABLE, "LAKEHOUSE_API_TOKEN", "LAKEHOUSE_ENGINE_OWNER", "LAKEHOUSE_LOCK")
"""Variables with the prefix of the settings that are not settings."""


def _refuse_misspelt_variables() -> None:
    """Reject variables that nearly match a setting; others with the prefix may belong to other programs."""
    known = {variable(name) for name in Settings.model_fields}
    prefixed = {f"LAKEHOUSE_{name.upper()}": variable(name) for name in Settings.model_fields}
    for name_set in map(str.upper, os.environ):
        if not name_set.startswith("LAKEHOUSE_") or name_set in _OTHER_VARIABLES:
            continue
        head = name_set.split("__")[0]
        near = difflib.get_close_matches(head, prefixed, 1, 0.9)
        if head not in known and near:
            right = prefixed[near[0]] + name_set.removeprefix(head)
            raise ConfigError(f"The environment variable {name_set} is not a setting; did you mean {right}?")


def command(words: str) -> str:
    """Return a command for users to run, with the parameters file of this process."""
    file = os.environ.get(FILE_VARIABLE, "")
    return f"lakehouse {words}" + (f" --params {shlex.quote(file)}" if file else "")


def _absolute(path: str) -> str:
    if "://" in path:
        return path.rstrip("/")
    path = os.path.expanduser(path)
    return _resolved(path if os.path.isabs(path) else str(project_root() / path))


@functools.lru_cache(maxsize=1000)
def _resolved(path: str) -> str:
    """Resolve symbolic links, once: a process keeps to the folder that it began with."""
    return os.path.realpath(path)


def _join(base: str, *parts: str) -> str:
    return "/".join([base, *parts])


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read_file(file: str | Path | None) -> dict[str, Any]:
    named = file or os.environ.get(FILE_VARIABLE)
    path = Path(named) if named else Path("parameters/default.yml")
    if not path.is_absolute():
        path = next((p for p in (Path.cwd() / path, project_root() / path) if p.exists()), path)
    if not path.exists():
        if named:
            raise ConfigError(f"The parameters file {named} does not exist.")
        return {}
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `setting: value` lines, found {content!r:.60}.")
    return {key: value for key, value in content.items() if value not in ("", None)}


def _fields_at(location: tuple[Any, ...]) -> dict[str, Any]:
    """Return the valid fields at the location of an error."""
    model: Any = Settings
    for step in location:
        fields = getattr(model, "model_fields", {})
        if step in fields:
            model = fields[step].annotation
        elif isinstance(step, int) or not fields:
            pass  # a list index or a dict key: its model is the annotation's last argument
        for _ in range(2):
            if not hasattr(model, "model_fields") and get_args(model):
                model = get_args(model)[-1]
    return getattr(model, "model_fields", {})


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = [step for step in problem["loc"] if step != "[key]"]
        where, known = ".".join(map(str, path)), list(_fields_at(problem["loc"][:-1]))
        if problem["loc"][-1:] == ("[key]",):
            known = re.findall("'(.+?)'", problem["ctx"]["expected"]) if "ctx" in problem else []
        if problem["type"] == "extra_forbidden" or problem["loc"][-1:] == ("[key]",):
            lines.append(f"{where}: unknown setting; {suggestion(str(path[-1]).lower(), known)}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where} = {problem['input']!r}: {message}" if where else message)
    return "Wrong settings, nothing was started:\n  " + "\n  ".join(lines)


def _explain_json(error: SettingsError) -> str:
    """Explain a value from the environment or ``--set`` that must be JSON, for a list or an object, but is not."""
    match = re.search('field "(.+?)"', str(error))
    name = match[1] if match else ""
    text = os.environ.get(variable(name) if name in Settings.model_fields else name, "")
    listed = name in Settings.model_fields and "list" in str(Settings.model_fields[name].annotation)[:4]
    example = '["a", "b"]' if listed else '{"name": "value"}'
    return f"Wrong settings, nothing was started:\n  {name} = {text!r}: must be JSON, such as {example}"
