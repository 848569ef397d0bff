"""What the health report shows: each function makes one of its tables, from logs and ``ops/`` alone."""

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


def front(made: Report, most: int = 3) -> HTML:
    """The first screen: the verdict, and the few things that need a person most."""
    color, colors = health.COLORS[made.verdict], health.COLORS
    cards = "".join(
        f'<div style="border-left:5px solid {colors[one.verdict]};padding:6px 12px;margin:10px 0;background:#8881">'
        f"<b>{html.escape(one.table)}: {html.escape(one.kind)}</b><br>{html.escape(one.text)}"
        + (f'<br><code style="overflow-wrap:anywhere">{html.escape(one.command)}</code>' if one.command else "")
        + "</div>"
        for one in made.findings[:most]
    )
    more = len(made.findings) - most
    rest = f"<p>{more} more below.</p>" if more > 0 else ""
    return HTML(
        f'<div style="background:{color};color:#fff;padding:14px 18px;border-radius:6px;font-size:26px">'
        f'<b>{made.verdict}</b><span style="font-size:14px;float:right;line-height:36px">'
        f"{'Sample input · ' if made.sample else ''}{made.generated_at:%Y-%m-%d %H:%M} UTC</span></div>"
        f"{cards or '<p>Nothing needs a person.</p>'}{rest}"
    )


def findings(made: Report) -> pd.DataFrame:
    """Everything that needs a person: ``verdict, table, kind, cause``, and what to ``run`` where that helps."""
    rows = [(one.verdict, one.table, one.kind, one.text, one.command and f"`{one.command}`") for one in made.findings]
    return pd.DataFrame(rows, columns=["verdict", "table", "kind", "cause", "run"])


def overview(settings: Settings, made: Report) -> pd.DataFrame:
    """Each table: verdict, rows, hours since its newest event and last load, target, last run, checks."""
    verdicts: dict[str, str] = dict(
        quality.scorecard(quality.latest(settings))[["table", "verdict"]].itertuples(index=False)
    )
    last = probes.last_steps(settings)
    found = []
    for table in tables.declared(settings).values():
        happened = loaded = None
        if table.name in made.rows:
            happened, loaded = probes.newest(settings, table, DeltaTable(delta.table_path(settings, table)))
        ages = [
            None if at is None else round((made.generated_at - at).total_seconds() / 3600, 1)
            for at in (happened, loaded)
        ]
        found.append((made.states[table.name], table.layer, table.name, made.rows.get(table.name), *ages,
                      table.freshness_hours, last.get(table.name, {}).get("state", "never run"),
                      verdicts.get(table.name, "")))  # fmt: skip
    names = ["verdict", "layer", "table", "rows", "event age, h", "load age, h", "target, h", "last run", "checks"]
    return pd.DataFrame(found, columns=names)


def changes(made: Report) -> pd.DataFrame:
    """What is other than in the report before: ``what, before, now``."""
    if made.before is None:
        return pd.DataFrame(columns=["what", "before", "now"])
    old, new = (
        {f"{one['table']}: {one['kind']}" for one in found}
        for found in (made.before["findings"], [asdict(one) for one in made.findings])
    )
    was = made.before["verdict"]
    rows = [("verdict", was, made.verdict)] if was != made.verdict else []
    rows += [(name, "", "new") for name in sorted(new - old)] + [(name, "", "gone") for name in sorted(old - new)]
    had = made.before["rows"]
    rows += [
        (f"rows of {name}", f"{had.get(name, 0):,}", f"{count:,}")
        for name, count in made.rows.items()
        if had.get(name, 0) != count
    ]
    return pd.DataFrame(rows, columns=["what", "before", "now"])


def ledger(settings: Settings) -> pd.DataFrame:
    """What became of every record of each table: read is the sum of the others, or it says so."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(ops.COUNTS, 0))
    for row in delta.read_ops(settings, "ledger"):
        for name in ops.COUNTS:
            sums[row["target"]][name] += row[name]
    declared = [name for name in tables.declared(settings) if name in sums]
    frame = pd.DataFrame([{"table": name, **sums[name]} for name in declared], columns=["table", *ops.COUNTS])
    right = frame.records_read == frame[list(ops.COUNTS[1:])].sum(axis=1)
    return frame.assign(verdict=right.map({True: "ok", False: "error"})).rename(columns={"records_read": "read"})


def storage(settings: Settings, made: Report) -> pd.DataFrame:
    """Each table on the disk: MB and files of its newest version, share of small files, MB that only
    older versions need, commits since the last checkpoint and the hours since it was written."""
    found = []
    for name in made.rows:
        opened = DeltaTable(delta.table_path(settings, tables.get(settings, name)))
        live = dict(
            zip(*(pa.table(opened.get_add_actions())[c].to_pylist() for c in ("path", "size_bytes")), strict=True)
        )
        old = sum(size for path, size in delta.data_files(opened) if path not in live)
        commits, written = maintenance.log_length(opened)
        small = sum(size < maintenance.SMALL for size in live.values()) / len(live) if live else None
        age = (made.generated_at - written).total_seconds() / 3600 if written else None
        found.append((name, sum(live.values()) / 1e6, len(live), None if small is None else f"{small:.0%}", old / 1e6,
                      commits, age))  # fmt: skip
    names = ["table", "MB", "files", "small files", "MB of old versions", "commits since checkpoint", "its age, h"]
    return pd.DataFrame(found, columns=names)


def file_sizes(settings: Settings, made: Report) -> pd.DataFrame:
    """How many files of all tables are how large: ``size, files``."""
    bounds = {"below 0.1 MB": 1e5, "0.1 to 1 MB": 1e6, "1 to 16 MB": 16 * 2**20, "16 to 128 MB": 128 * 2**20,
              "above": float("inf")}  # fmt: skip
    counts = dict.fromkeys(bounds, 0)
    for name in made.rows:
        opened = DeltaTable(delta.table_path(settings, tables.get(settings, name)))
        for size in pa.table(opened.get_add_actions())["size_bytes"].to_pylist():
            counts[next(word for word, bound in bounds.items() if size < bound)] += 1
    return pd.DataFrame(counts.items(), columns=["size", "files"])


def performance(settings: Settings, made: Report, runs: int = 6) -> pd.DataFrame:
    """Seconds of each table in the last runs, newest last, slowest first; the rows that the newest
    run wrote, and how much the table has grown by them."""
    rows = pd.DataFrame(delta.read_ops(settings, "runs"))
    if rows.empty:
        return pd.DataFrame()
    last = sorted(rows.run_id.unique(), key=lambda run: rows[rows.run_id == run].started_at.min())[-runs:]
    wide = rows[rows.run_id.isin(last)].pivot_table(index="target", columns="run_id", values="seconds", aggfunc="sum")
    wide = wide.reindex(columns=last).sort_values(last[-1], ascending=False).round(1)
    written = rows[rows.run_id == last[-1]].groupby("target").rows.sum()
    wide["rows written"] = written.reindex(wide.index)
    had = pd.Series(made.rows).reindex(wide.index) - wide["rows written"]
    wide["growth"] = [
        f"{part / base:+.1%}" if base > 0 else "" for part, base in zip(wide["rows written"], had, strict=True)
    ]
    return wide.reset_index().rename(columns={"target": "table"})


def drift(settings: Settings) -> pd.DataFrame:
    """Records of each feed that hold fields which the contract does not know, from the log."""
    found = []
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table) if table.layer == "bronze" else None
        if opened is None:
            continue
        files = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
        known = [f for f in files if f.get("null_count._rescued_data") is not None]
        more = sum(f["num_records"] - f["null_count._rescued_data"] for f in known)
        found.append((landing.feed_of(table), sum(f["num_records"] or 0 for f in files), more))
    return pd.DataFrame(found, columns=["feed", "records", "with unknown fields"])
