"""The health report as a page: the first screen, a line for each table with its details, and the runs.

Templates escape everything that comes from data. Each part carries its style, and works without a network; without
scripts too, but for filter and order.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from IPython.display import HTML
from markupsafe import Markup

from lakehouse_lib.care import facts as care_facts
from lakehouse_lib.care import health
from lakehouse_lib.care.facts import CheckFacts, Facts, RunFacts, TableFacts
from lakehouse_lib.care.probes import Finding
from lakehouse_lib.catalog import lineage
from lakehouse_lib.config import Settings
from lakehouse_lib.serve import charts, figures, markup, style
from lakehouse_lib.serve.charts import Layer, chart, stamp

FIRST = 4
"""Findings on the first screen; the others are one click away."""
ORDERS = (
    ("", "as the data flows"), ("state", "worst first"), ("name", "by name"), ("rows", "most rows"),
    ("age", "oldest data"), ("failed", "failed checks"), ("run", "last run"), ("bytes", "largest"),
)  # fmt: skip
"""Orders to choose from where the screen is too narrow for the heads of columns."""
LISTED = 10
"""Runs that are listed below the timeline."""


def front(facts: Facts) -> HTML:
    """Show the first screen: the verdict and since when, tables by state, what needs a person, and what has changed."""
    report = facts.report
    states = [table.state for table in facts.tables]
    words = [*reversed(health.VERDICTS), health.NOT_IN_USE]
    return markup.shown(
        "front",
        facts=facts,
        report=report,
        first=FIRST,
        since=_since(facts),
        counts=[(word, states.count(word)) for word in words if word in states],
        past=_past_verdicts(facts),
        known={table.table.name for table in facts.tables},
        changes=figures.changes(report, facts.moved).to_dict("records"),
        finding_since=lambda finding: _finding_since(facts, finding),
    )


def tables(settings: Settings, facts: Facts) -> HTML:
    """Show a line for each table, with its details behind a click; it can be filtered and sorted."""
    known = {table.table.name for table in facts.tables}
    lines = [_line(settings, table, facts.report.generated_at) for table in facts.tables]
    return markup.shown("tables", markup.SCRIPT, tables=lines, known=known, span=care_facts.DAYS, orders=ORDERS)


def runs(facts: Facts) -> HTML:
    """Show the last runs as a timeline, and as a list, newest first."""
    return markup.shown("runs", chart=_timeline(facts.runs), runs=facts.runs[: -LISTED - 1 : -1])


def _since(facts: Facts) -> str:
    at, verdict = facts.since, facts.report.verdict
    if at is None:
        return "first report" if facts.report.before is None else f"{verdict} since this report"
    return f"{verdict} since {style.moment(at)} ({style.age(facts.report.generated_at - at)})"


def _finding_since(facts: Facts, finding: Finding) -> str:
    at = facts.finding_since.get((finding.table, finding.kind))
    return f"for {style.age(facts.report.generated_at - at)}" if at else "new"


def _past_verdicts(facts: Facts) -> Markup:
    """Draw the worst verdict of each of the last days."""
    worst: dict[date, str] = {}
    for at, verdict in facts.verdicts:
        worst[at.date()] = max(worst.get(at.date(), verdict), verdict, key=health.VERDICTS.index)
    today = facts.report.generated_at.date()
    days = [today - timedelta(days=ago) for ago in range(care_facts.DAYS - 1, -1, -1)]
    colors = [style.BADGES[worst[day]] if day in worst else style.FAINT for day in days]
    titles = [f"{day}: {worst.get(day, 'no report')}" for day in days]
    return Markup(charts.strip(colors, titles, f"Verdicts of the last {care_facts.DAYS} days"))


def _line(settings: Settings, facts: TableFacts, now: datetime) -> dict[str, Any]:
    """Return what the template shows of one table."""
    table, step = facts.table, facts.last_step
    state_order = [health.NOT_IN_USE, *health.VERDICTS].index(facts.state)
    words = (table.name, table.layer, facts.owner, facts.state, *table.tags, *(f.kind for f in facts.findings))
    return {
        "facts": facts,
        "data": {
            "name": table.name, "state": state_order, "rows": facts.rows,
            "age": _share(facts), "failed": facts.failed + facts.passed / 1e6,
            "run": step["started_at"].timestamp() if step else None, "owner": facts.owner, "bytes": facts.bytes,
            "text": " ".join(words).lower(),
        },
        "spark": Markup(_spark(facts, now)),
        "rows": "" if facts.rows is None else f"{facts.rows:,}",
        "added": f"{facts.added:+,}" if facts.added else "",
        "fresh": _fresh(facts),
        "checks": _checks_in_short(facts),
        "run": step["state"] if step else "never run",
        "run_age": _ago(now - step["started_at"]) if step else "",
        "volume": Markup(_volume(facts, now)),
        "check_lines": [_check_line(check) for check in sorted(facts.checks, key=_failed_first)],
        "lineage": Markup(lineage.picture(settings, table.name)),
        "size": _sizes(facts),
    }  # fmt: skip


def _share(facts: TableFacts) -> float | None:
    """Return the age of a table's data as a share of its target; None for rejected records: nothing new is no delay."""
    age = facts.freshness.age
    return None if age is None or facts.table.layer == "quarantine" else age / facts.freshness.target


def _ago(span: timedelta) -> str:
    return f"{style.age(span)} ago"


def _fresh(facts: TableFacts) -> dict[str, Any]:
    age, share = facts.freshness.age, _share(facts)
    if share is None:
        return {"text": style.age(age), "width": None}
    late = share > 1
    text = f"{style.age(age)} of {style.age(facts.freshness.target)}{' late' * late}"
    return {"text": text, "color": style.WARN if late else style.GOOD, "width": f"{100 * min(1, share):.0f}"}


def _checks_in_short(facts: TableFacts) -> str:
    if not facts.checks:
        return "none yet"
    rest = len(facts.checks) - facts.passed - facts.failed
    parts = [f"✗ {facts.failed}"] * bool(facts.failed) + [f"✓ {facts.passed}"] * bool(facts.passed)
    return " · ".join([*parts, *[f"{rest} no rows"] * bool(rest)])


def _spark(facts: TableFacts, now: datetime) -> str:
    """Draw the trend of a table in its line: rows by day, or for a table without days its number of rows."""
    if facts.days:
        label = _days_in_words(facts)
        return charts.spark([d.rows for d in facts.days], [d.odd for d in facts.days], not facts.days[-1].over, label)
    if facts.rows and len(facts.totals) > 1:
        first, last = facts.totals[0][1], facts.totals[-1][1]
        points = [(stamp(at), float(rows)) for at, rows in facts.totals]
        start = stamp(now - timedelta(days=care_facts.DAYS))
        return charts.spark_line(points, start, stamp(now), f"Rows in all: {first:,} at first, {last:,} now")
    return ""


def _days_in_words(facts: TableFacts) -> str:
    rows = [day.rows for day in facts.days if day.rows]
    if not rows:
        return f"no rows of the last {care_facts.DAYS} days; newest day {facts.newest_day or 'none'}"
    return f"Rows by day: {min(rows):,} to {max(rows):,}, newest day {facts.newest_day}"


def _volume(facts: TableFacts, now: datetime) -> str:
    """Draw the rows of each day with the expected range, or the number of rows over time."""
    if facts.days:
        if not any(day.rows for day in facts.days):
            return f'<p class="lh-soft">{_days_in_words(facts)}</p>'
        at = {day.date: stamp(datetime(day.date.year, day.date.month, day.date.day, tzinfo=UTC)) for day in facts.days}
        usual, odd = ([(at[d.date], float(d.rows)) for d in facts.days if d.odd is flag] for flag in (False, True))
        judged = [day for day in facts.days if day.low is not None]
        layers = [Layer("bars", usual, width=0.7 * 86400), Layer("bars", odd, style.ODD, "unusual", width=0.7 * 86400)]
        layers += [Layer("band", [(at[d.date], d.low or 0.0) for d in judged], style.SERIES[2], "expected range",
                         [d.high or 0.0 for d in judged])] if len(judged) > 1 else []  # fmt: skip
        first, last = facts.days[0].date, facts.days[-1].date
        ticks = charts.time_ticks(
            datetime(first.year, first.month, first.day), datetime(last.year, last.month, last.day)
        )
        unfinished = "" if facts.days[-1].over else "; the last day is not over"
        return chart(f"Rows by {facts.table.partition_by}", f"rows{unfinished}", layers, ticks, height=130)
    if len(facts.totals) < 2:
        return ""
    points = [(stamp(at), float(rows)) for at, rows in [*facts.totals, (now, facts.totals[-1][1])]]
    ticks = charts.time_ticks(facts.totals[0][0].astimezone(UTC), now)
    return chart("Rows in all", "rows", [Layer("line", points)], ticks, height=130)


def _failed_first(check: CheckFacts) -> tuple[bool, bool]:
    return not check.result.failed, check.result.passed is None


def _check_line(check: CheckFacts) -> dict[str, Any]:
    colors = {True: style.GOOD, False: style.BADGES.get(check.result.severity, style.BAD), None: style.FAINT}
    words = {True: "passed", False: "failed", None: "no rows"}
    titles = [f"{style.moment(at)}: {words[passed]}" for at, passed in check.past]
    failures = sum(passed is False for _, passed in check.past)
    label = f"{check.result.check_name} before: {failures} failures in {len(titles)}"
    return {
        "verdict": check.result.verdict,
        "text": check.result.message.removeprefix(f"{check.result.table_name}: check "),
        "past": Markup(charts.strip([colors[passed] for _, passed in check.past], titles, label)),
    }


def _sizes(facts: TableFacts) -> list[tuple[str, str]]:
    keeps = f"{facts.table.retention_days} days" if facts.table.retention_days else "for ever"
    return [
        ("owner", facts.owner),
        ("newest version", f"{style.size(facts.bytes)} in {facts.files:,} files"),
        ("older versions, for time travel", style.size(facts.old_bytes)),
        ("commits since the last checkpoint", f"{facts.log_length:,}"),
        ("rows are kept", keeps),
        ("rows added since the previous report", "" if facts.added is None else f"{facts.added:+,}"),
    ]


def _timeline(runs: list[RunFacts]) -> Markup:
    """Draw the seconds of each run, oldest first; a single run is no trend."""
    if len(runs) < 3:
        return Markup("")
    colors = {"ok": style.ACCENT, "held": style.ODD, "failed": "#d0453c"}
    layers = [
        Layer("bars", [(float(i), run.seconds) for i, run in enumerate(runs) if run.state == state], color,
              "" if state == "ok" else state)
        for state, color in colors.items()
    ]  # fmt: skip
    places = sorted({0, (len(runs) - 1) // 2, len(runs) - 1})
    ticks = [(float(i), f"{runs[i].started_at:%d %b %H:%M}".lstrip("0")) for i in places]
    return Markup(chart(f"The last {len(runs)} runs, oldest first", "seconds", layers, ticks, height=110))
