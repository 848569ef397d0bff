"""The laws: confluence, conservation, provenance. Also under SIGKILL, and with two runs at once."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from conftest import click, event
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lake import assert_ledger_matches_tables, assert_same, contents, rows, versions
from worker import Worker

from lakehouse_lib import config, sample
from lakehouse_lib.config import SampleSettings, Settings
from lakehouse_lib.engines import session
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.intake import landing
from lakehouse_lib.model import ops, tables
from lakehouse_lib.storage import commits, delta, reader

DIRTY = SampleSettings(
    days=3, end=date(2026, 3, 10), users=12, share_duplicates=0.1, share_late=0.1, share_malformed=0.05,
    share_wrong_type=0.05, share_missing=0.05, share_out_of_range=0.05, share_redelivered=0.1,
)  # fmt: skip
BASES = ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze")

EXAMPLES = int(os.environ.get("LAKEHOUSE_TEST_EXAMPLES", "3"))
"""Arrivals that the first law is tried on; each is two or three runs, one of them killed."""


def run(settings: Settings) -> None:
    pipeline.run(settings, progress=lambda line: None).check()


def started(settings: Settings) -> Worker:
    """Start a run in a separate process."""
    values = {name: getattr(settings, name) for name in ("lakehouse_base_path", "landing_path", "spark_master")}
    return Worker(values | {"sample": {"rows": 0}})


def put(files: list[Path], source: Path, landing_folder: Path, suffix: str = "") -> None:
    for file in files:
        target = landing_folder / file.relative_to(source)
        target = target.with_name(suffix + target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Delivered as producers are asked to: written elsewhere, then moved.
        aside = target.with_name(target.name + ".tmp")
        shutil.copy2(file, aside)
        aside.rename(target)


def ledger_adds_up(settings: Settings) -> None:
    """Assert that every landing record is in bronze, and what bronze accepted is in silver or a duplicate."""
    assert_ledger_matches_tables(settings)
    counts = reader.query(
        settings,
        """
        SELECT target, sum(records_read)::BIGINT r, sum(accepted)::BIGINT a, sum(updated)::BIGINT u,
               sum(duplicate)::BIGINT d, sum(quarantined)::BIGINT q, sum(unchanged)::BIGINT s
        FROM ops_ledger GROUP BY target""",
    )
    by_target = {row.target: row for row in counts.itertuples()}
    assert [row.target for row in by_target.values() if row.r != row.a + row.u + row.d + row.q + row.s] == []
    for name in BASES:
        assert by_target[name].a + by_target[name].q == reader.count(settings, name), name
    assert by_target["app_events_silver"].a == reader.count(settings, "app_events_silver")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory) -> Path:
    """Dirty landing files, all at once."""
    folder = tmp_path_factory.mktemp("dirty")
    sample.write(DIRTY, folder, 600)
    return folder


@pytest.fixture(scope="module")
def clean_load(dirty, engine, tmp_path_factory) -> Settings:
    """The lakehouse after one clean load of them."""
    settings = config.load({"lakehouse_base_path": str(tmp_path_factory.mktemp("clean")), "landing_path": str(dirty),
                            "spark_master": engine, "sample": {"rows": 0}})  # fmt: skip
    run(settings)
    return settings


@hypothesis_settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 50, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_batches_in_any_order_repeated_or_killed_give_the_same_tables(
    dirty, clean_load, engine, tmp_path_factory, data
):
    files = sorted(path for path in dirty.rglob("*") if path.is_file())
    order = data.draw(st.permutations(files))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(files) - 1), min_size=1, max_size=2, unique=True)))
    batches = [order[i:j] for i, j in zip([0, *cuts], [*cuts, len(files)], strict=True)]
    again = data.draw(st.lists(st.sampled_from(files), max_size=3, unique=True))
    killed, after = data.draw(st.integers(0, len(batches) - 1)), data.draw(st.floats(0.1, 4))
    base = tmp_path_factory.mktemp("parts")
    settings = clean_load.model_copy(
        update={"lakehouse_base_path": str(base / "lake"), "landing_path": str(base / "landing")}
    )
    for number, batch in enumerate(batches):
        put(batch, dirty, base / "landing")
        if number:
            put(again, dirty, base / "landing", suffix="again-")
        if number == killed:
            started(settings).kill_after(after)
        run(settings)
    run(settings)
    assert_same(settings, clean_load)
    ledger_adds_up(settings)


def test_twenty_kills_lose_and_duplicate_nothing(dirty, clean_load, tmp_path):
    """Deliver, kill, deliver, kill …; after each kill every table opens and holds whole commits."""
    rng = random.Random(7)
    files = sorted(path for path in dirty.rglob("*") if path.is_file())
    rng.shuffle(files)
    settings = clean_load.model_copy(
        update={"lakehouse_base_path": str(tmp_path / "lake"), "landing_path": str(tmp_path / "landing")}
    )
    reached = set()
    for number in range(20):
        put(files[number::20], dirty, tmp_path / "landing")
        started(settings).kill_after(rng.uniform(0.1, 3))
        for name, counts in contents(settings).items():
            keys = tables.get(settings, name).key
            if keys and not keys[0].startswith("_"):
                assert max(Counter(tuple(row[k] for k in keys) for row in counts).values(), default=1) == 1, name
            reached.update([name] if counts else [])
    assert reached >= {"app_events_bronze", "app_events_silver"}  # the kills came late enough to matter
    run(settings)
    assert_same(settings, clean_load)
    ledger_adds_up(settings)


def test_run_killed_between_commit_and_watermarks_is_recovered(lakehouse, jvm, deliver, monkeypatch):
    """Spark stores the watermark of a second source in a separate commit."""
    deliver("app_events/1.json", [event(1), event(2, "2026-03-03T10:00:00Z"), {"event_id": "rejected"}])
    lake = lakehouse(
        spark_master=jvm,
        tables="app_events_bronze,app_events_bronze_quarantine,app_events_silver,clickstream_bronze,"
        "clickstream_bronze_quarantine,clickstream_silver,cdc_changes_bronze,"
        "cdc_changes_bronze_quarantine,hourly_metrics_gold",
    )
    honest = commits.mark

    def killed(settings, table, consumed, *more, **named):
        if table.name == "hourly_metrics_gold":
            raise RuntimeError("killed")
        honest(settings, table, consumed, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "mark", killed)
        pipeline.run(lake, progress=lambda line: None)
    deliver("app_events/2.json", [{"event_id": "rejected too"}])
    deliver("clickstream/1.json", [click(1, "2026-03-04T10:00:00Z")])
    run(lake)
    clean = lake.model_copy(update={"lakehouse_base_path": lake.path("clean")})
    run(clean)
    assert_same(lake, clean)


def test_concurrent_runs_succeed_or_report_the_lock(dirty, clean_load, tmp_path):
    settings = clean_load.model_copy(update={"lakehouse_base_path": str(tmp_path / "lake")})
    both = [started(settings) for _ in range(2)]
    ends = [worker.ended() for worker in both]
    assert sorted(status for status, _ in ends) == [0, 1]
    (outputs,) = (output for status, output in ends if status)
    assert "Another run holds the lakehouse" in outputs and "Traceback" not in outputs
    assert_same(settings, clean_load)


def test_run_with_nothing_new_writes_nothing_and_needs_no_engine(clean_load, monkeypatch):
    before = versions(clean_load)

    def never(*_):
        raise AssertionError("Spark was started")

    monkeypatch.setattr(session, "connect", never)
    assert selection.pending(clean_load) == []
    result = pipeline.run(clean_load, progress=lambda line: None)
    assert {step.state for step in result.steps} == {"nothing new"}
    assert versions(clean_load) == before


def test_full_rebuild_gives_the_same_tables_even_after_a_kill(dirty, clean_load, tmp_path):
    settings = clean_load.model_copy(update={"lakehouse_base_path": str(tmp_path / "lake")})
    run(settings)
    full = settings.model_copy(update={"full": True})
    pipeline.run(full, "bronze", progress=lambda line: None).check()  # and no further: as if killed here
    run(settings)
    assert_same(settings, clean_load)
    run(full)
    assert_same(settings, clean_load)
    ledger = reader.query(settings, "SELECT * FROM ops_ledger")
    assert (ledger.records_read == ledger[list(ops.COUNTS[1:])].sum(axis=1)).all()


def test_every_record_of_dirty_input_is_accounted_for(clean_load, dirty):
    """Counted by the simplest possible reader: line by line, in Python."""
    ledger_adds_up(clean_load)
    for feed in ("app_events", "clickstream", "cdc_changes"):
        lines = sum(len(open_lines(path)) for path in (dirty / feed).rglob("*") if path.is_file())
        name = f"{feed}_bronze"
        rejected = reader.query(clean_load, f"SELECT reasons, record, _source_file f FROM {name}_quarantine")
        good = reader.query(clean_load, f"SELECT count(*) n FROM {name} WHERE len(_quality_flags) = 0").n[0]
        assert good + len(rejected) == lines, feed
        (reasons,) = reader.query(clean_load, f"SELECT reasons FROM ops_ledger WHERE target = '{name}'").reasons
        assert json.loads(reasons) == Counter(flag for flags in rejected.reasons for flag in flags)
        # Each rejected record is a line of the file that it is said to come from.
        for row in rejected.itertuples():
            assert row.record in open_lines(dirty / feed / row.f)
    broken = [line for path in (dirty / "app_events").rglob("*.gz") for line in open_lines(path) if not parses(line)]
    broken += [line for path in (dirty / "app_events/late").iterdir() for line in open_lines(path) if not parses(line)]
    kept = reader.query(
        clean_load, "SELECT record FROM app_events_bronze_quarantine WHERE reasons[1] = 'malformed_record'"
    )
    assert sorted(kept.record) == sorted(broken) and broken


def open_lines(path: Path) -> list[str]:
    import gzip

    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    lines = text.splitlines()
    return lines[1:] if ".csv" in path.name else lines


def parses(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def test_rows_can_be_traced_to_files_and_tables_to_sources_code_and_run(clean_load, dirty):
    files = {str(p.relative_to(dirty / "app_events")) for p in (dirty / "app_events").rglob("*") if p.is_file()}
    assert set(reader.query(clean_load, "SELECT DISTINCT _source_file f FROM app_events_bronze").f) <= files
    lineage = reader.query(clean_load, "SELECT * FROM ops_lineage")
    edges = set(zip(lineage.source, lineage.target, strict=True))
    for table in tables.declared(clean_load).values():
        sources = table.sources or (f"landing/{landing.feed_of(table)}",)
        assert {(source, table.name) for source in sources} <= edges
        runs = {row["_run_id"] for row in rows(clean_load, table.name, ["_run_id"])}
        assert runs <= set(lineage.run_id)
    assert set(lineage.job) == {table.transform for table in tables.declared(clean_load).values()}


def test_run_fails_if_the_ledger_does_not_add_up(clean_load, tmp_path, monkeypatch):
    from lakehouse_lib.layers import refresh

    settings = clean_load.model_copy(update={"lakehouse_base_path": str(tmp_path / "lake"), "tables": BASES[0]})
    run(settings)
    honest = refresh._counts
    monkeypatch.setattr(
        refresh, "_counts", lambda **arguments: honest(**arguments | {"duplicate": arguments.get("duplicate", 0) + 1})
    )
    silver = settings.model_copy(update={"tables": "app_events_silver"})
    with pytest.raises(Exception, match=r"The ledger of app_events_silver version .* does not add up"):
        run(silver)


def test_additional_events_change_only_their_days(lakehouse, tmp_path):
    """Increment and full rebuild of the same input, compared column by column."""
    sizes = SampleSettings(days=7, end=date(2026, 3, 10))
    sample.write(sizes, tmp_path / "landing", 5000)
    lake = lakehouse()
    run(lake)
    before = versions(lake)
    more = sizes.model_copy(update={"days": 1, "seed": 99, "share_out_of_range": 0, "share_late": 0})
    sample.write(more, tmp_path / "more", 50)
    for path in (p for p in (tmp_path / "more").rglob("*") if p.is_file() and "cdc" not in str(p)):
        put([path], tmp_path / "more", tmp_path / "landing", suffix="more-")
    run(lake)
    touched = {"2026-03-09", "2026-03-10"}  # the last session may run past midnight
    for name in ("app_events_silver", "clickstream_silver", "event_metrics_gold", "daily_summary_gold"):
        path = delta.table_path(lake, tables.get(lake, name))
        seen = delta.changes(path, before[name], DeltaTable(path).version())
        assert seen.any and seen.partitions <= touched, name
    rebuilt = lakehouse("rebuilt")
    run(rebuilt)
    assert_same(lake, rebuilt)
