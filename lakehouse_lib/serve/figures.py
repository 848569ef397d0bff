"""The tables of the health report, one function each, from the Delta logs and ``ops/`` alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from lakehouse_lib.care.health import Report
from lakehouse_lib.catalog.rules import Moved
from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import ops, tables
from lakehouse_lib.serve import style
from lakehouse_lib.storage import delta


def changes(report: Report, moved: Iterable[Moved] = ()) -> pd.DataFrame:
    """Differences from the previous report: ``what, before, now, change``; ``moved`` are the tables
    whose declaration, settings or code have changed since."""
    columns = ["what", "before", "now", "change"]
    if report.before is None:
        return pd.DataFrame(columns=columns)
    old, new = (
        {f"{finding['table']}: {finding['kind']}" for finding in listing}
        for listing in (report.before["findings"], [asdict(finding) for finding in report.findings])
    )
    verdicts = report.before["verdict"], report.verdict
    rows = [("verdict", *verdicts, " → ".join(verdicts))] if verdicts[0] != verdicts[1] else []
    rows += [(name, "", "new", "new") for name in sorted(new - old)]
    rows += [(name, "", "gone", "gone") for name in sorted(old - new)]
    rows += [
        (f"rules of {one.table}: {', '.join(one.changes)}", one.before, one.after,
         "for new rows" if one.forward_only else "rebuilt")
        for one in moved
    ]  # fmt: skip
    for name, count in report.rows.items():
        if (before := report.before["rows"].get(name, 0)) != count:
            rows.append((f"rows of {name}", f"{before:,}", f"{count:,}", style.change(before, count)))
    return pd.DataFrame(rows, columns=columns)


def ledger(settings: Settings) -> pd.DataFrame:
    """What became of the records of each table; ``verdict`` is error where the counts do not add up to ``read``, and no
    rows where nothing was read."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(ops.COUNTS, 0))
    for row in delta.read_ops(settings, "ledger"):
        for name in ops.COUNTS:
            sums[row["target"]][name] += row[name]
    declared = [name for name in tables.declared(settings) if name in sums]
    frame = pd.DataFrame([{"table": name, **sums[name]} for name in declared], columns=["table", *ops.COUNTS])
    balanced = frame.records_read == frame[list(ops.COUNTS[1:])].sum(axis=1)
    verdict = balanced.map({True: "ok", False: "error"}).mask(frame.records_read == 0, "no rows")
    frame.insert(1, "verdict", verdict)
    return frame.rename(columns={"records_read": "read"})


def drift(settings: Settings, report: Report) -> pd.DataFrame:
    """Records of each readable feed with fields outside its contract, counted from the Delta log."""
    rows = []
    for table in tables.declared(settings).values():
        readable = table.layer == "bronze" and table.name in report.rows
        delta_table = delta.opened(settings, table) if readable else None
        if delta_table is None:
            continue
        files, nulls = delta.files(delta_table), "null_count._rescued_data"
        files = files.select([name for name in ("num_records", nulls) if name in files.column_names]).to_pylist()
        with_statistics = [f for f in files if f.get(nulls) is not None]
        rescued = sum(f["num_records"] - f[nulls] for f in with_statistics)
        rows.append((landing.feed_of(table), sum(f["num_records"] or 0 for f in files), rescued))
    return pd.DataFrame(rows, columns=["feed", "records", "with unknown fields"])
