"""Days that a run computes again: `--from`, `--to`, and open ends."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from lake import rows

from lakehouse_lib import cli, config, run
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.layers import inputs
from lakehouse_lib.model import tables
from lakehouse_lib.storage import archive, delta

GOLD = ("event_metrics_gold", "daily_summary_gold")
TODAY = datetime.now(UTC).date()


def silver_events(settings: Settings, *days: int) -> tables.Table:
    """Events on some days of March in silver; the other sources of gold exist and are empty."""
    table = tables.get(settings, "app_events_silver")
    for name in GOLD:
        for source in tables.get(settings, name).sources:
            delta.ensure(settings, tables.get(settings, source))
    events = []
    for day in days:
        at = datetime(2026, 3, day, 10, tzinfo=UTC)
        events.append({c.name: None for c in table.columns} | {
            "event_id": f"e{day}", "event_type": "tap", "event_timestamp": at, "event_date": at.date(),
            "event_hour": 10, "is_error": False, "user_id": f"u{day % 3}", "_run_id": "r", "_processed_at": at,
        })  # fmt: skip
    write_deltalake(
        delta.table_path(settings, table), pa.Table.from_pylist(events, table.arrow_schema()), mode="append"
    )
    return table


def run_gold(settings: Settings, **asked: str) -> None:
    gold_settings = config.load(settings.model_dump(exclude_unset=True) | {"tables": ",".join(GOLD)} | asked)
    pipeline.run(gold_settings, progress=lambda line: None).check()


def wrong_days(settings: Settings, clean: dict[str, list[dict]]) -> list[list[int]]:
    """For each table, the days of March whose figures differ from those of the clean one."""
    return [
        [row[tables.get(settings, name).partition_by].day for row in rows(settings, name) if row not in clean[name]]
        for name in GOLD
    ]


def test_open_end_extends_to_the_first_or_last_existing_day(lakehouse):
    """Including archived days; running figures are computed from the first day onwards."""
    lake = lakehouse()
    silver = silver_events(lake, 1, 2, 4, 5)
    run_gold(lake)
    clean = {name: rows(lake, name) for name in GOLD}
    for name in GOLD:
        opened = DeltaTable(delta.table_path(lake, tables.get(lake, name)))
        opened.update(updates={"total_events": "total_events + 7"})
    run_gold(lake, date_from="2026-03-05")
    assert wrong_days(lake, clean) == [[1, 2, 4]] * 2
    archive.retire(lake, silver, archive.due(lake, silver, date(2027, 1, 1)))
    run_gold(lake, date_to="2026-03-02")
    assert wrong_days(lake, clean) == [[4], []]


def test_days_to_compute_again_are_existing_days(lakehouse):
    """Of the source and of the table, in files or in the archive; a rebuild computes all."""
    lake = lakehouse()
    silver, gold = silver_events(lake, 1, 2, 5), tables.get(lake, "event_metrics_gold")
    delta.ensure(lake, gold)

    def days(full: bool = False, **asked: date) -> list[int] | None:
        settings = lake.model_copy(update=asked)
        states = inputs.source_states(settings, gold)
        states = {name: replace(state, changes=None) for name, state in states.items()}
        actual = inputs.Inputs(None, settings, gold, "r", states, full).days("app_events_silver")
        return None if actual is None else sorted(day.day for day in actual)

    assert days() == [] and days(full=True, date_from=date(2026, 3, 2)) is None
    assert days(date_from=date(2026, 3, 2)) == [2, 5] and days(date_to=date(2026, 3, 2)) == [1, 2]
    assert days(date_from=date.min, date_to=date.max) == [1, 2, 5]
    archive.retire(lake, silver, archive.due(lake, silver, date(2027, 1, 1)))
    assert days(date_from=date(2026, 3, 2)) == [2, 5] and days(date_from=date(2026, 3, 6)) == []


def test_days_are_selected_by_from_and_to():
    both = config.load({"date_from": "2026-03-02", "date_to": "2026-03-04"})
    since, until = config.load({"date_from": "yesterday"}), config.load({"date_to": "-7d"})
    asked = [day for day in range(1, 7) if both.asks_for(date(2026, 3, day))]
    assert asked == [2, 3, 4] and not config.load().has_days and not config.load().asks_for(TODAY)
    assert since.asks_for(TODAY) and since.asks_for(TODAY - timedelta(1)) and not since.asks_for(TODAY - timedelta(2))
    assert until.asks_for(date(2000, 1, 1)) and not until.asks_for(TODAY) and until.has_days


@pytest.mark.parametrize("words", [["--from", "-7d", "--to", "today"], ["--from=-7d", "--to=TODAY"]])
def test_relative_days_are_not_parsed_as_options(words, lakehouse, monkeypatch):
    """Options override the environment, and stay the same days until the run ends."""
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lakehouse().path())
    for name in ("LAKEHOUSE_DATE_FROM", "LAKEHOUSE_DATE_TO"):
        monkeypatch.setenv(name, "2020-01-01")
    seen = []

    def notebooks(settings, *_):
        seen.append((settings.date_from, settings.date_to, os.environ["LAKEHOUSE_DATE_FROM"]))

    monkeypatch.setattr(run, "everything", notebooks)
    assert cli.main(["run", *words]) == 0
    assert seen == [(TODAY - timedelta(7), TODAY, str(TODAY - timedelta(7)))]


def test_days_outside_of_every_table_are_rejected(lakehouse):
    lake = lakehouse(tables="app_events_silver", date_from="2026-03-01")
    with pytest.raises(ConfigError, match=r"days of gold tables .* app_events_silver is none. Name a gold table"):
        selection.check_days(lake)
    selection.check_days(lakehouse(tables="app_events_silver,daily_summary_gold", date_from="2026-03-01"))
