"""The health report, the business report and the list of runs: their facts, and their pages in a browser.

The lakehouse is written by hand, so that no engine is needed and every figure is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse_lib import config, notebooks
from lakehouse_lib.care import facts, health
from lakehouse_lib.care.probes import Finding
from lakehouse_lib.catalog import catalog
from lakehouse_lib.catalog.rules import Moved
from lakehouse_lib.config import Settings
from lakehouse_lib.flow.steps import RunResult, Step
from lakehouse_lib.model import ops, tables
from lakehouse_lib.serve import browse, business, charts, figures, index, page, plots, style
from lakehouse_lib.storage import commits, delta
from lakehouse_lib.trust import anomalies, quality

NOW = datetime.now(UTC).replace(microsecond=0)
EVIL = "<script>alert('owned')</script>"


def put(settings: Settings, name: str, rows: list[dict[str, Any]]) -> str:
    """Append rows to a table, with values for its required columns; returns the table's id."""
    table = tables.get(settings, name)
    filler = {"string": "x", "timestamp": NOW, "date": NOW.date(), "bigint": 1, "int": 1, "double": 1.0,
              "boolean": False, "array<string>": []}  # fmt: skip
    required = {c.name: filler.get(c.type) if c.required else None for c in table.columns}
    path = delta.table_path(settings, table)
    data = pa.Table.from_pylist([required | row for row in rows], table.arrow_schema())
    write_deltalake(path, data, mode="append", partition_by=[table.partition_by] if table.partition_by else None)
    return str(DeltaTable(path).metadata().id)


def note(settings: Settings, name: str, *rows: dict[str, Any]) -> None:
    """Append rows to a table under ops; columns that are not given are empty, 0 or now."""
    empty = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.0, pa.timestamp("us", "UTC"): NOW, pa.bool_(): None}
    full = [{field.name: empty.get(field.type) for field in ops.SCHEMAS[name]} | row for row in rows]
    commits.write_ops(settings, name, full)


def ran(settings: Settings, run_id: str, ago: timedelta, name: str, table_id: str, rows: int, state="updated", **step):
    """Record that a run has added rows to a table."""
    at = NOW - ago
    note(settings, "runs", {"run_id": run_id, "target": name, "state": state, "started_at": at, "seconds": 4.0,
                            "rows": rows} | step)  # fmt: skip
    note(settings, "ledger", {"run_id": run_id, "target": name, "table_id": table_id, "recorded_at": at, "rows": rows,
                              "records_read": rows, "accepted": rows, "version": int(at.timestamp())})  # fmt: skip


def checked(settings: Settings, name: str, ago: timedelta, **results: bool | None) -> None:
    """Record results of checks, by name: passed, failed or without rows."""
    table = tables.get(settings, name)
    note(settings, "quality_results", *(
        {"table_name": name, "layer": table.layer, "check_name": check, "severity": "error", "passed": passed,
         "measured": 3.0, "expected": "at most 0", "unit": "rows", "checked_at": NOW - ago, "failing_keys": "[]",
         "message": f"{name}: check {check}: 3 of 9 rows are {EVIL}", "kind": "range", "parts": "{}",
         "definition": json.dumps({"arguments": {"column": "x"}})}
        for check, passed in results.items()
    ))  # fmt: skip


@pytest.fixture
def lake(tmp_path) -> Settings:
    """A lakehouse for one test."""
    return written(tmp_path / "lake")


def written(base: Path) -> Settings:
    """Write events of 39 of the last 40 days, a few users, two runs, and a check that fails."""
    settings = config.load({"lakehouse_base_path": str(base), "sample": {"rows": 0}})
    moments = {ago: NOW - timedelta(days=ago) for ago in range(1, 41) if ago != 9}
    events = [
        {"event_id": f"e{ago}-{n}", "event_timestamp": at, "event_date": at.date(), "_source_file": "1.json"}
        for ago, at in moments.items()
        for n in range(ago)
    ]
    for name in ("app_events_bronze", "app_events_silver"):
        known = set(tables.get(settings, name).names)
        table_id = put(settings, name, [{k: v for k, v in row.items() if k in known} for row in events])
        ran(settings, "first", timedelta(days=3), name, table_id, len(events))
    users = put(settings, "users_silver", [{"user_id": f"u{n}"} for n in range(5)])
    ran(settings, "first", timedelta(days=3), "users_silver", users, 3)
    ran(settings, "second", timedelta(hours=2), "users_silver", users, 2)
    checked(settings, "app_events_silver", timedelta(days=3), hour_in_day=True, duration_not_negative=True)
    checked(settings, "app_events_silver", timedelta(hours=1), hour_in_day=True, duration_not_negative=False)
    return settings


def of(found: facts.Facts, name: str) -> facts.TableFacts:
    return next(table for table in found.tables if table.table.name == name)


# Facts ------------------------------------------------------------------------------


def test_rows_by_day_include_days_without_rows_and_the_day_that_is_not_over(lake):
    events = of(facts.gather(lake, NOW), "app_events_silver")
    assert [day.rows for day in events.days[-4:]] == [3, 2, 1, 0] and len(events.days) == facts.DAYS
    assert events.days[-10].rows == 0 and events.newest_day == (NOW - timedelta(days=1)).date()
    assert not events.days[-1].over and events.days[-6].over


def test_table_without_days_has_its_number_of_rows_after_each_commit(lake):
    users = of(facts.gather(lake, NOW), "users_silver")
    assert users.days == [] and [rows for _, rows in users.totals] == [3, 5]


def test_rows_of_a_table_that_was_replaced_are_not_counted(lake):
    note(lake, "ledger", {"target": "users_silver", "table_id": "replaced", "rows": 1000, "recorded_at": NOW})
    assert of(facts.gather(lake, NOW), "users_silver").totals[-1][1] == 5


def test_freshness_is_the_age_of_the_newest_event_or_else_of_the_last_load(lake):
    found = facts.gather(lake, NOW)
    events, users = of(found, "app_events_silver").freshness, of(found, "users_silver").freshness
    assert events.age == timedelta(days=1) and not events.late
    assert users.event is None and users.age == timedelta(hours=2)
    assert of(facts.gather(lake, NOW + timedelta(minutes=1)), "app_events_silver").freshness.late


def test_checks_are_counted_and_their_history_is_known(lake):
    events = of(facts.gather(lake, NOW), "app_events_silver")
    assert (events.passed, events.failed) == (1, 1)
    past = {check.result.check_name: [passed for _, passed in check.past] for check in events.checks}
    assert past == {"hour_in_day": [True, True], "duration_not_negative": [True, False]}
    assert quality.past(lake, times=1)["app_events_silver"]["hour_in_day"] == [(NOW - timedelta(hours=1), True)]


def test_owner_is_the_one_that_people_have_set(lake):
    catalog.edit(lake, "users_silver", owner="crm-team")
    found = facts.gather(lake, NOW)
    assert found.owner("users_silver") == "crm-team" and found.owner("ops/runs") == ""


def test_finding_and_verdict_are_dated_by_the_first_report_of_an_unbroken_series(lake):
    report = health.report(lake, NOW)
    broken = ("app_events_silver", "failed check")
    for days, findings, verdict in ((9, report.findings, "Degraded"), (8, [], "Warning"),
                                    (7, report.findings, "Degraded"), (6, report.findings, "Degraded")):  # fmt: skip
        at = NOW - timedelta(days=days)
        health.remember(lake, replace(report, generated_at=at, findings=findings, verdict=verdict))
    found = facts.gather(lake, NOW)
    assert found.report.verdict == "Degraded" and found.since == NOW - timedelta(days=7)
    assert found.finding_since[broken] == NOW - timedelta(days=7)
    assert [verdict for _, verdict in found.verdicts] == ["Degraded", "Warning", "Degraded", "Degraded", "Degraded"]


def test_run_lasts_from_its_first_table_to_its_last_and_has_the_state_of_its_worst(lake):
    note(lake, "runs", {"run_id": "second", "target": "daily_summary_gold", "state": "held", "message": "kept",
                        "started_at": NOW - timedelta(hours=2) + timedelta(seconds=10), "seconds": 5.0})  # fmt: skip
    first, second = facts.runs(lake)
    assert (first.run_id, first.state, first.read) == ("first", "ok", sum(range(1, 41)) - 9)
    assert (second.state, second.seconds, second.message) == ("held", 15.0, "daily_summary_gold: kept")


def test_changed_rules_are_listed_among_what_has_changed(lake):
    health.remember(lake, health.report(lake, NOW - timedelta(days=1)))
    found = facts.gather(lake, NOW)
    assert found.moved == []
    for kept, words in ((False, "rebuilt"), (True, "for new rows")):
        found.moved[:] = [
            Moved("users_silver", NOW, "r", "a1", "b2", [f"active_days: 7 → {EVIL}", "users changed"], kept)
        ]
        changes = figures.changes(found.report, found.moved).set_index("what").change
        assert changes[f"rules of users_silver: active_days: 7 → {EVIL}, users changed"] == words
        assert f">{words}<" in page.front(found).data and EVIL not in page.front(found).data


# No false figures -------------------------------------------------------------------


@pytest.mark.parametrize(("before", "now", "text"), [
    (1000, 1032, "+32 (+3.2%)"), (1000, 900, "-100 (-10.0%)"), (3, 2633, "+2,630"), (1000, 90_000, "+89,000"),
    (0, 5, "+5"), (7, 7, "no change"),
])  # fmt: skip
def test_change_is_in_percent_only_where_that_says_something(before, now, text):
    assert style.change(before, now) == text


@pytest.mark.parametrize(("minutes", "text"), [
    (-5, "0 min"), (89, "89 min"), (93, "1.6 h"), (24 * 60, "24 h"), (24 * 60 + 6, "24.1 h"), (4 * 1440, "4 days"),
])  # fmt: skip
def test_age_has_one_unit_and_tells_a_missed_target_from_a_met_one(minutes, text):
    assert style.age(timedelta(minutes=minutes)) == text


def test_growth_is_measured_by_rows_and_not_by_what_a_run_wrote(lake):
    report = health.report(lake, NOW)
    report.before = {"generated_at": NOW, "verdict": report.verdict, "findings": [], "rows": {"app_events_silver": 800}}
    changes = figures.changes(report).set_index("what").change
    assert changes["rows of app_events_silver"] == "+11 (+1.4%)"


def test_series_of_one_moment_is_told_in_words():
    frame = pd.DataFrame({"day": [NOW], "bronze": [100.0], "silver": [98.0]})
    text = plots.over_time(frame, "day", ["bronze", "silver"], "Checks <that> passed", "percent").data
    assert "Checks &lt;that&gt; passed: bronze 100, silver 98 percent" in text and "<svg" not in text


def test_expected_range_is_drawn_only_where_there_is_enough_history():
    counts = pd.Series(range(100, 110), pd.date_range("2026-03-01", periods=10), dtype=float)
    drawn = plots.band(anomalies.expected_counts(counts), "Rows", "rows").data
    assert "too little history" in drawn and "expected range" not in drawn
    weeks = pd.Series([100.0 + day % 7 for day in range(70)], pd.date_range("2026-01-01", periods=70))
    drawn = plots.band(anomalies.expected_counts(weeks), "Rows", "rows").data
    assert "too little history" not in drawn and "expected range" in drawn and "unusual" not in drawn


def test_ledger_of_nothing_does_not_add_up_to_ok(lake):
    note(lake, "ledger", {"target": "clickstream_bronze"})
    verdicts = figures.ledger(lake).set_index("table").verdict
    assert (verdicts["clickstream_bronze"], verdicts["app_events_bronze"]) == ("no rows", "ok")
    step = Step("app_events_bronze")
    assert "Nothing was read" in RunResult("r", [step]).balance()
    step.counts["records_read"] = 1
    assert RunResult("r", [step]).balance() == "It adds up."


def test_small_files_are_mentioned_only_where_something_is_due(lake):
    html = page.tables(lake, facts.gather(lake, NOW)).data
    assert "small file" not in html and "Due:" not in html
    for n in range(9):
        put(lake, "users_silver", [{"user_id": f"n{n}"}])
    assert "10 files below 16 MB" in page.tables(lake, facts.gather(lake, NOW)).data


# Charts -----------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "steps"), [([0.0, 7.0], [0, 5, 10]), ([2.0], [0, 1, 2]), ([], [0, 0.5, 1]),
                                               ([7645.0], [0, 5000, 10000]), ([0.3], [0, 0.1, 0.2, 0.3])])  # fmt: skip
def test_axis_has_round_steps_up_to_the_largest_value(values, steps):
    assert charts.nice(values) == pytest.approx(steps)


@pytest.mark.parametrize("days", [0.4, 1, 2, 3, 14, 45, 400])
def test_newest_day_or_hour_has_a_label_and_no_axis_is_crowded(days):
    start, end = NOW - timedelta(days=days), NOW
    ticks = charts.time_ticks(start, end)
    assert 2 <= len(ticks) <= 5 and all(charts.stamp(start) <= at <= charts.stamp(end) for at, _ in ticks)
    assert end - timedelta(days=1) < datetime.fromtimestamp(ticks[-1][0], UTC) <= end


def test_figure_of_missing_values_says_that_there_is_nothing():
    frame = pd.DataFrame({"day": pd.date_range("2026-03-01", periods=3), "mean": [None, None, None]})
    assert "no rows to draw" in plots.over_time(frame, "day", ["mean"], "Time to answer", "ms").data
    assert "no rows to draw" in plots.histogram(pd.Series([None], dtype=float), "Length", "minutes", "sessions").data


def test_missing_value_is_a_gap_in_the_line():
    line = charts.Layer("line", [(0, 1.0), (1, float("nan")), (2, 2.0), (3, 1.0)])
    drawn = charts.chart("t", "u", [line], [])
    assert 'd="M0.00 50.00M66.67 0.00L100.00 50.00"' in drawn and "nan" not in drawn


# Pages ------------------------------------------------------------------------------


def test_broken_table_has_its_line_and_hides_no_other(lake):
    log = Path(delta.table_path(lake, tables.get(lake, "app_events_bronze"))) / "_delta_log"
    (log / f"{1:020d}.json").write_text("{no json")
    health.remember(lake, health.report(lake, NOW - timedelta(days=1)))
    found = facts.gather(lake, NOW)
    broken = of(found, "app_events_bronze")
    assert (broken.state, broken.rows, broken.days) == ("Degraded", None, []) and broken.passed == 0
    assert of(found, "app_events_silver").rows and figures.drift(lake, found.report).empty
    assert "cannot be opened" in page.front(found).data and 'id="lh-app_events_bronze"' in page.tables(lake, found).data


def test_everything_from_data_is_escaped(lake):
    catalog.edit(lake, "users_silver", owner=EVIL)
    ran(lake, EVIL, timedelta(minutes=5), "users_silver", "x", 0, state="failed", message=EVIL)
    found = facts.gather(lake, NOW)
    found.report.findings.append(Finding(EVIL, "Warning", "users_silver", EVIL, EVIL, EVIL, EVIL))
    (lake.local_dir("runs") / "<b>").mkdir()
    texts = [
        page.front(found).data,
        page.tables(lake, found).data,
        page.runs(found).data,
        index.write(lake).read_text(),
    ]
    texts += [
        browse.table(pd.DataFrame({EVIL: [EVIL]})).data,
        charts.spark([1], label=EVIL),
        charts.strip([], [], EVIL),
    ]
    for text in texts:
        assert EVIL not in text and "<b></td>" not in text
    assert "&lt;script&gt;" in texts[0] and "&lt;script&gt;" in texts[1] and "&lt;script&gt;" in texts[2]


def test_index_lists_runs_newest_first_with_verdicts_and_links_to_pages(lake, tmp_path):
    for run_id in ("first", "second", "report only"):
        folder = lake.local_dir("runs", run_id)
        for name in ("10_bronze_ingestion", "60_health_report"):
            (folder / f"{name}.html").write_text("page")
            (folder / f"{name}.ipynb").write_text("{}")
    (lake.local_dir("runs") / "latest").symlink_to("second")
    health.remember(lake.model_copy(update={"run_id": "second"}), health.report(lake, NOW))
    text = index.write(lake).read_text()
    assert text.index("report only") < text.index(">second<") < text.index(">first<") and "latest" not in text
    assert 'href="second/60_health_report.html"' in text and 'href="report%20only/10_bronze' in text
    assert ".ipynb" not in text and text.count("Degraded</span>") == 1
    row = text[text.index("report only") - 1500 : text.index(">second<")]
    assert row.index("health report") < row.index("bronze ingestion")


# Business ---------------------------------------------------------------------------


def summary(ago: int, **values: float) -> dict[str, Any]:
    return {"summary_date": (NOW - timedelta(days=ago)).date(), "total_value": 0.0, "total_sessions": 0} | values


def test_business_report_compares_the_last_full_day_with_the_same_weekday(lake):
    put(lake, "daily_summary_gold", [summary(0, total_users=1), summary(1, total_users=330, bounce_rate=0.25),
                                     summary(8, total_users=300, bounce_rate=0.5)])  # fmt: skip
    days = business.days(lake)
    assert len(days) == 2
    text = business.front(lake, days).data
    assert "330" in text and "+30 (+10.0%), from 300" in text and "-25.0 points, from 50.0%" in text
    assert "value of events" not in text and "sessions" not in text  # none was ever delivered


def test_day_is_full_only_if_gold_was_updated_after_it(lake):
    table_id = put(lake, "daily_summary_gold", [summary(n, total_users=100 * n) for n in (1, 2, 3)])
    ran(lake, "r", timedelta(days=1), "daily_summary_gold", table_id, 3)
    assert business.days(lake).total_users.tolist() == [300, 200]


def test_business_report_names_tables_that_are_held_back(lake):
    put(lake, "daily_summary_gold", [summary(1, total_users=5)])
    ran(lake, "r", timedelta(0), "user_segments_gold", "x", 0, state="held", message=f"because of {EVIL}")
    text = business.front(lake, business.days(lake)).data
    assert "Not up to date: user_segments_gold. because" in text and "because of &lt;script&gt;" in text


def test_events_by_hour_are_the_mean_of_the_days_that_there_are(lake):
    day = (NOW - timedelta(days=1)).date()
    put(lake, "event_metrics_gold", [
        {"metric_date": day - timedelta(days=ago), "metric_hour": hour, "event_type": kind, "total_events": events}
        for ago, hour, kind, events in ((0, 7, "tap", 30), (3, 7, "tap", 10), (3, 8, "buy", 4), (40, 7, "tap", 1000))
    ])  # fmt: skip
    assert business.event_types(lake).values.tolist() == [["tap", 40], ["buy", 4]]
    hours = business.by_hour(lake, ["tap", "buy", "none"]).set_index("hour")
    assert list(hours) == ["tap", "buy"] and hours.tap[7] == 40 / 28 and hours.buy[8] == 4 / 28 and hours.tap[9] == 0


def test_business_report_of_nothing_says_so(lake):
    days = business.days(lake)
    assert "No full day yet" in business.front(lake, days).data
    assert business.segments(lake).empty and business.event_types(lake).empty
    assert "no rows to draw" in plots.by_hour(business.by_hour(lake, []), "Events", "events").data


# In a browser -----------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture
def opened(browser):
    """Open a page without a network; nothing may be fetched."""
    contexts = []

    def at(path: Path, width: int, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme)
        contexts.append(context)
        shown = context.new_page()
        problems: list[str] = []
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or problems.append(asked.url))
        shown.goto(path.as_uri())
        assert not problems
        return shown

    yield at
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A folder with the pages of a run."""
    base = tmp_path_factory.mktemp("pages") / "lake"
    settings = written(base)
    put(settings, "daily_summary_gold", [summary(n, total_users=100 + n) for n in range(1, 20)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAKEHOUSE_BASE_PATH", str(base))
        for name in (notebooks.REPORT, notebooks.BUSINESS):
            executed = notebooks.execute(settings, name, "shown", latest=False)
    index.write(settings)
    return executed.parent


CLIPPED = """() => [...document.querySelectorAll('main *')]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible')
    .map(e => e.outerHTML.slice(0, 200))"""

CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92
    : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const faint = [];
  for (const element of document.querySelectorAll('.lh *, .lh + *')) {
    const own = [...element.childNodes].some((node) => node.nodeType == 3 && node.data.trim());
    if (!own || !element.getClientRects().length || element.closest('style,script,svg')) continue;
    const chain = []; for (let at = element; at; at = at.parentElement) chain.unshift(at);
    let back = matchMedia('(prefers-color-scheme: dark)').matches ? [17, 17, 17] : [255, 255, 255], opacity = 1;
    for (const at of chain) {
      const look = getComputedStyle(at);
      back = over(parse(look.backgroundColor), back); opacity *= Number(look.opacity);
    }
    const color = parse(getComputedStyle(element).color);
    const ink = over([...color.slice(0, 3), color[3] * opacity], back);
    const [high, low] = [light(ink), light(back)].sort((a, b) => b - a);
    if ((high + .05) / (low + .05) < 4.5) faint.push(element.outerHTML.slice(0, 120));
  }
  return faint;
}"""


@pytest.mark.parametrize("width", [1300, 390])
def test_tables_of_the_report_are_filtered_sorted_and_opened(pages, opened, width):
    shown = opened(pages / f"{notebooks.REPORT}.html", width)
    rows = shown.locator(".lh-row:visible")
    every = len(tables.declared(config.load({})))
    assert rows.count() == every
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1300:
        assert shown.evaluate(CLIPPED) == []
        shown.get_by_role("button", name="rows").click()
        assert shown.locator(".lh-row").first.get_attribute("data-name") == "app_events_bronze"
        shown.get_by_role("button", name="table").click()
        shown.get_by_role("button", name="table").click()
        assert shown.locator(".lh-row").first.get_attribute("data-name") == "users_silver"
    else:
        shown.get_by_label("Sort tables").select_option("oldest data")
        assert shown.locator(".lh-row").first.get_attribute("data-name") == "app_events_bronze"
        shown.get_by_label("Sort tables").select_option("worst first")
        assert shown.locator(".lh-row").first.get_attribute("data-state") == "4"
    shown.get_by_label("Filter tables").fill("silver degraded")
    assert rows.count() == 1 and f"1 of {every} tables" in shown.inner_text(".lh-bar")
    assert not shown.get_by_text("Last commits").first.is_visible()
    rows.locator("summary").click()
    assert rows.get_by_text("Last commits").is_visible()
    assert rows.get_by_role("img", name="Rows by event_date").is_visible()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.get_by_label("Filter tables").fill("")
    shown.get_by_role("link", name="app_events_bronze", exact=True).first.click()
    shown.wait_for_selector("#lh-app_events_bronze[open]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_of_the_report_can_be_read(pages, opened, scheme):
    shown = opened(pages / f"{notebooks.REPORT}.html", 1300, scheme)
    shown.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert shown.evaluate(CONTRAST) == []
    background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 17, 17)"}[scheme]


@pytest.mark.parametrize("width", [1300, 390])
def test_business_page_and_index_fit_and_need_no_network(pages, opened, width):
    shown = opened(pages / f"{notebooks.BUSINESS}.html", width, "dark")
    assert shown.title() == "Business report" and "import " not in shown.inner_text("body")
    assert shown.get_by_role("img", name="Users, different users").is_visible()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate(CONTRAST) == []
    shown = opened(pages.parent / "index.html", width, "dark")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.get_by_role("link", name="health report").click()
    assert shown.title() == "Health report"


def test_page_without_scripts_is_complete(pages, browser):
    context = browser.new_context(java_script_enabled=False, offline=True)
    shown = context.new_page()
    shown.goto((pages / f"{notebooks.REPORT}.html").as_uri())
    assert not shown.get_by_label("Filter tables").is_visible()
    shown.locator("#lh-users_silver > summary").click()
    assert shown.locator("#lh-users_silver").get_by_text("Last commits").is_visible()
    context.close()
