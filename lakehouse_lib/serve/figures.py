"""The tables of the health report, one function each, from the Delta logs and ``ops/`` alone."""

from __future__ import annotations

import html
from collections import defaultdict
from dataclasses import asdict

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from IPython.display import HTML

from lakehouse_lib.care import health, maintenance, probes
from lakehouse_lib.care.health import Report
from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import ops, tables
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality


def front(report: Report, limit: int = 3) -> HTML:
    """The first screen: the verdict, and the most urgent findings."""
    color, colors = health.COLORS[report.verdict], health.COLORS
    cards = "".join(
        f'<div style="border-left:5px solid {colors[finding.verdict]};padding:6px 12px;margin:10px 0;background:#8881">'
        f"<b>{html.escape(finding.table)}: {html.escape(finding.kind)}</b><br>{html.escape(finding.text)}"
        + (f'<br><code style="overflow-wrap:anywhere">{html.escape(finding.command)}</code>' if finding.command else "")
        + "</div>"
        for finding in report.findings[:limit]
    )
    hidden = len(report.findings) - limit
    rest = f"<p>{hidden} more below.</p>" if hidden > 0 else ""
    return HTML(
        f'<div style="background:{color};color:#fff;padding:14px 18px;border-radius:6px;font-size:26px">'
        f'<b>{report.verdict}</b><span style="font-size:14px;float:right;line-height:36px">'
        f"{'Sample input · ' if report.sample else ''}{report.generated_at:%Y-%m-%d %H:%M} UTC</span></div>"
        f"{cards or '<p>Nothing needs your attention.</p>'}{rest}"
    )


def findings(report: Report) -> pd.DataFrame:
    """All findings: ``verdict, table, kind, cause``, and the command to ``run`` where one helps."""
    rows = [
        (finding.verdict, finding.table, finding.kind, finding.text, finding.command and f"`{finding.command}`")
        for finding in report.findings
    ]
    return pd.DataFrame(rows, columns=["verdict", "table", "kind", "cause", "run"])


@delta.look()
def overview(settings: Settings, report: Report) -> pd.DataFrame:
    """Every table: verdict, rows, hours since its newest event and last load, target, last run, checks."""
    verdicts: dict[str, str] = dict(
        quality.scorecard(quality.latest(settings))[["table", "verdict"]].itertuples(index=False)
    )
    last_steps = probes.last_steps(settings)
    rows = []
    for table in tables.declared(settings).values():
        newest_event = last_load = None
        if table.name in report.rows:
            newest_event, last_load = probes.newest(settings, table, delta.made(settings, table, "it has no rows"))
        ages = [
            None if moment is None else round((report.generated_at - moment).total_seconds() / 3600, 1)
            for moment in (newest_event, last_load)
        ]
        rows.append((report.states[table.name], table.layer, table.name, report.rows.get(table.name), *ages,
                     table.freshness_hours, last_steps.get(table.name, {}).get("state", "never run"),
                     verdicts.get(table.name, "")))  # fmt: skip
    columns = ["verdict", "layer", "table", "rows", "event age, h", "load age, h", "target, h", "last run", "checks"]
    return pd.DataFrame(rows, columns=columns)


def changes(report: Report) -> pd.DataFrame:
    """Differences from the previous report: ``what, before, now``."""
    if report.before is None:
        return pd.DataFrame(columns=["what", "before", "now"])
    old, new = (
        {f"{finding['table']}: {finding['kind']}" for finding in listing}
        for listing in (report.before["findings"], [asdict(finding) for finding in report.findings])
    )
    old_verdict = report.before["verdict"]
    rows = [("verdict", old_verdict, report.verdict)] if old_verdict != report.verdict else []
    rows += [(name, "", "new") for name in sorted(new - old)] + [(name, "", "gone") for name in sorted(old - new)]
    old_rows = report.before["rows"]
    rows += [
        (f"rows of {name}", f"{old_rows.get(name, 0):,}", f"{count:,}")
        for name, count in report.rows.items()
        if old_rows.get(name, 0) != count
    ]
    return pd.DataFrame(rows, columns=["what", "before", "now"])


def ledger(settings: Settings) -> pd.DataFrame:
    """What became of the records of each table; ``verdict`` is error where the counts do not add up to ``read``."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(ops.COUNTS, 0))
    for row in delta.read_ops(settings, "ledger"):
        for name in ops.COUNTS:
            sums[row["target"]][name] += row[name]
    declared = [name for name in tables.declared(settings) if name in sums]
    frame = pd.DataFrame([{"table": name, **sums[name]} for name in declared], columns=["table", *ops.COUNTS])
    balanced = frame.records_read == frame[list(ops.COUNTS[1:])].sum(axis=1)
    return frame.assign(verdict=balanced.map({True: "ok", False: "error"})).rename(columns={"records_read": "read"})


def storage(settings: Settings, report: Report) -> pd.DataFrame:
    """Every table on disk: MB and files of its newest version, share of small files, MB used only by
    older versions, commits since the last checkpoint and the checkpoint's age in hours."""
    rows = []
    for name in report.rows:
        delta_table = DeltaTable(delta.table_path(settings, tables.get(settings, name)))
        live_sizes = dict(
            zip(*(pa.table(delta_table.get_add_actions())[c].to_pylist() for c in ("path", "size_bytes")), strict=True)
        )
        old_bytes = sum(size for path, size in delta.data_files(delta_table) if path not in live_sizes)
        commits, checkpointed_at = maintenance.log_length(delta_table)
        small_share = (
            sum(size < maintenance.SMALL for size in live_sizes.values()) / len(live_sizes) if live_sizes else None
        )
        age = (report.generated_at - checkpointed_at).total_seconds() / 3600 if checkpointed_at else None
        rows.append((name, sum(live_sizes.values()) / 1e6, len(live_sizes),
                     None if small_share is None else f"{small_share:.0%}", old_bytes / 1e6, commits, age))  # fmt: skip
    columns = ["table", "MB", "files", "small files", "MB of old versions", "commits since checkpoint", "its age, h"]
    return pd.DataFrame(rows, columns=columns)


def file_sizes(settings: Settings, report: Report) -> pd.DataFrame:
    """The number of files of all tables by size class: ``size, files``."""
    bounds = {"below 0.1 MB": 1e5, "0.1 to 1 MB": 1e6, "1 to 16 MB": 16 * 2**20, "16 to 128 MB": 128 * 2**20,
              "above": float("inf")}  # fmt: skip
    counts = dict.fromkeys(bounds, 0)
    for name in report.rows:
        delta_table = DeltaTable(delta.table_path(settings, tables.get(settings, name)))
        for size in pa.table(delta_table.get_add_actions())["size_bytes"].to_pylist():
            counts[next(label for label, bound in bounds.items() if size < bound)] += 1
    return pd.DataFrame(counts.items(), columns=["size", "files"])


def performance(settings: Settings, report: Report, runs: int = 6) -> pd.DataFrame:
    """Seconds per table in the last runs: newest run last, slowest table first; with the rows that the
    newest run wrote and the growth of the table."""
    rows = pd.DataFrame(delta.read_ops(settings, "runs"))
    if rows.empty:
        return pd.DataFrame()
    last_runs = sorted(rows.run_id.unique(), key=lambda run: rows[rows.run_id == run].started_at.min())[-runs:]
    wide = rows[rows.run_id.isin(last_runs)].pivot_table(
        index="target", columns="run_id", values="seconds", aggfunc="sum"
    )
    wide = wide.reindex(columns=last_runs).sort_values(last_runs[-1], ascending=False).round(1)
    written = rows[rows.run_id == last_runs[-1]].groupby("target").rows.sum()
    wide["rows written"] = written.reindex(wide.index)
    rows_before = pd.Series(report.rows).reindex(wide.index) - wide["rows written"]
    wide["growth"] = [
        f"{added / before:+.1%}" if before > 0 else ""
        for added, before in zip(wide["rows written"], rows_before, strict=True)
    ]
    return wide.reset_index().rename(columns={"target": "table"})


def drift(settings: Settings) -> pd.DataFrame:
    """Records of each feed with fields outside its contract, counted from the Delta log."""
    rows = []
    for table in tables.declared(settings).values():
        delta_table = delta.opened(settings, table) if table.layer == "bronze" else None
        if delta_table is None:
            continue
        files = pa.table(delta_table.get_add_actions(flatten=True)).to_pylist()
        with_statistics = [f for f in files if f.get("null_count._rescued_data") is not None]
        rescued = sum(f["num_records"] - f["null_count._rescued_data"] for f in with_statistics)
        rows.append((landing.feed_of(table), sum(f["num_records"] or 0 for f in files), rescued))
    return pd.DataFrame(rows, columns=["feed", "records", "with unknown fields"])
