"""Settings: sources, precedence, and rejected values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakehouse_lib import cli, config
from lakehouse_lib.errors import ConfigError

SEED_VARIABLES = {
    "SPARK_MASTER": ("spark_master", "spark://spark-master:7077", "spark://spark-master:7077"),
    "LAKEHOUSE_BASE_PATH": ("lakehouse_base_path", "/var/lib/lakehouse", "/var/lib/lakehouse"),
    "BRONZE_PATH": ("bronze_path", "/b", "/b"),
    "SILVER_PATH": ("silver_path", "/s", "/s"),
    "GOLD_PATH": ("gold_path", "/g", "/g"),
    "LANDING_PATH": ("landing_path", "/l", "/l"),
    "LOG_LEVEL": ("log_level", "debug", "DEBUG"),
    "ENABLE_DELTA": ("enable_delta", "false", False),
    "AUTO_OPTIMIZE": ("auto_optimize", "false", False),
    "AUTO_ARCHIVE": ("auto_archive", "false", False),
    "TIME_TRAVEL_RETENTION_DAYS": ("time_travel_retention_days", "60", 60),
    "VACUUM_RETENTION_DAYS": ("vacuum_retention_days", "14", 14),
}


@pytest.mark.parametrize("variable", SEED_VARIABLES)
def test_environment_variables_override_given_values(variable, monkeypatch):
    field, text, value = SEED_VARIABLES[variable]
    monkeypatch.setenv(variable, text)
    values = {"spark_master": "local[1]", "log_level": "ERROR", "enable_delta": True,
             "time_travel_retention_days": 1, "vacuum_retention_days": 1, "auto_optimize": True,
             "auto_archive": True}  # fmt: skip
    assert getattr(config.load({field: values.get(field, "/elsewhere")}), field) == value


def test_given_values_override_the_file_and_the_file_overrides_defaults(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text("session_gap_minutes: 10\nsample: {rows: 5, days: 3}\n")
    settings = config.load({"sample": {"rows": 9}, "tables": ""}, file)
    assert (settings.session_gap_minutes, settings.sample.rows, settings.sample.days) == (10, 9, 3)
    assert settings.active_days == 30


def test_misspelt_setting_is_rejected_with_the_nearest_name(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text("sesion_gap_minutes: 10\nsample: {row: 5}\nfeeds: {clickstream: {selects: {}}}\n")
    with pytest.raises(ConfigError) as caught:
        config.load({}, file)
    text = str(caught.value)
    assert "sesion_gap_minutes: unknown setting; did you mean session_gap_minutes?" in text
    assert "sample.row: unknown setting; did you mean rows?" in text
    assert "feeds.clickstream.selects: unknown setting; did you mean select?" in text
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"full": "yes"}, "full = 'yes'"),
        ({"session_gap_minutes": "long"}, "session_gap_minutes = 'long'"),
        ({"vacuum_retention_days": -1}, "vacuum_retention_days = -1"),
        ({"feeds": {"clicks": {}}}, "feeds.clicks"),
        ({"date_from": "tomorrow"}, "date_from = 'tomorrow': give a day as YYYY-MM-DD, today, yesterday, or -7d"),
        ({"date_to": "2026-02-30"}, "date_to = '2026-02-30'"),
        ({"date_to": 20260301}, "date_to = 20260301"),
        ({"date_to": "-9999999d"}, "date_to = '-9999999d'"),
        ({"date_from": "2026-03-04", "date_to": "2026-03-01"}, "2026-03-04, which is after date_to (--to), 2026-03-01"),
        ({"retention": {"app_events_bronze": -5}}, "retention.app_events_bronze = -5"),
        ({"run_id": "../x"}, "run_id = '../x'"),
    ],
)
def test_ill_typed_setting_is_rejected_with_its_value(values, words):
    with pytest.raises(ConfigError, match="nothing was started") as caught:
        config.load(values)
    assert words in str(caught.value)


def test_named_parameters_file_must_exist_and_be_yaml(tmp_path, monkeypatch):
    monkeypatch.setenv(config.FILE_VARIABLE, str(tmp_path / "none.yml"))
    with pytest.raises(ConfigError, match=r"parameters file .* does not exist"):
        config.load()
    (tmp_path / "none.yml").write_text("a: [1,")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        config.load()


def test_set_option_reaches_nested_settings(monkeypatch):
    for assignment in ("sample.rows=7", "landing_path=/in", "session_gap_minutes=5"):
        monkeypatch.setenv(*config.environment_of(assignment))
    settings = config.load()
    assert (settings.sample.rows, settings.layer_path("landing"), settings.session_gap_minutes) == (
        7,
        "/in",
        5,
    )
    assert settings.sample.days == 14
    with pytest.raises(ConfigError, match="Did you mean landing_path"):
        config.environment_of("landing_paths=/in")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("sample.rowz=5", "sample.rowz: unknown setting; did you mean rows?"),
        ("feeds.clickstream.selct=x", "feeds.clickstream.selct: unknown setting; did you mean select?"),
        ("feeds.clickstrem.path=x", "feeds.clickstrem: unknown setting; did you mean clickstream?"),
        ("cdc.users_tabel=x", "cdc.users_tabel: unknown setting; did you mean users_table?"),
        ("retention.app_event_bronze=5", "there is no table 'app_event_bronze'; did you mean app_events_bronze?"),
        ("tables.users_silver=x", "tables has no nested settings; use --set tables=VALUE"),
        ("retention=abc", "retention = 'abc': must be JSON, such as {"),
        ("api_cors_origins=http://x", "api_cors_origins = 'http://x': must be JSON, such as ["),
        ("sesion_gap_minutes=5", "Did you mean session_gap_minutes?"),
    ],
)
def test_misspelt_nested_setting_is_named(assignment, words, capsys, monkeypatch):
    monkeypatch.setattr(config.os, "environ", dict(os.environ))
    assert cli.main(["tables", "--set", assignment]) == 2
    assert words in capsys.readouterr().err


def test_lists_and_objects_can_be_set_whole_or_in_part(monkeypatch):
    for assignment in ('retention={"app_events_bronze": 10}', "retention.users_silver=0", "api_cors_origins=[\"http://x\"]",
                       "spark_conf.spark.sql.caseSensitive=true", "spark_conf.spark.executor.memory=8g"):  # fmt: skip
        monkeypatch.setenv(*config.environment_of(assignment))
    with pytest.raises(ConfigError, match=r"spark_conf = .*the native engine does not use it.*spark_master: local"):
        config.load()
    settings = config.load({"spark_master": "local[*]"})
    assert settings.retention == {"app_events_bronze": 10, "users_silver": 0}
    assert settings.spark_conf == {"spark.sql.caseSensitive": "true", "spark.executor.memory": "8g"}
    assert settings.api_cors_origins == ["http://x"]


@pytest.mark.parametrize(("variable", "right"), [
    ("LAKEHOUSE_SESION_GAP_MINUTES", "LAKEHOUSE_SESSION_GAP_MINUTES"), ("LAKEHOUSE_LANDING_PATH", "LANDING_PATH"),
    ("LAKEHOUSE_SAMPEL__ROWS", "LAKEHOUSE_SAMPLE__ROWS"), ("LAKEHOUSE_HOME", ""), ("LAKEHOUSE_API_TOKEN", ""),
])  # fmt: skip
def test_misspelt_variable_is_named_and_foreign_variables_are_ignored(variable, right, monkeypatch):
    monkeypatch.setenv(variable, "5")
    if not right:
        config.load()
        return
    with pytest.raises(ConfigError, match=f"{variable} is not a setting; did you mean {right}?"):
        config.load()


def test_paths_follow_the_base_path_and_can_be_overridden(tmp_path):
    settings = config.load({"lakehouse_base_path": str(tmp_path), "gold_path": "s3://bucket/gold/"})
    assert settings.layer_path("silver") == f"{tmp_path}/silver"
    assert settings.layer_path("gold") == "s3://bucket/gold"
    assert settings.feed_path("clickstream") == f"{tmp_path}/landing/clickstream"


@pytest.mark.parametrize("file", sorted(Path("parameters").glob("*.yml")), ids=lambda p: p.name)
def test_parameters_files_of_the_project_are_valid(file):
    config.load({}, file)
