"""A lakehouse created by an earlier version opens, reports and increments like one of this version."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from conftest import change, click, event
from lake import assert_same, run_tables, versions

from lakehouse_lib.care import health
from lakehouse_lib.catalog import catalog, history, lineage, trace
from lakehouse_lib.flow import selection
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

STORED = Path("tests/lakehouse_0.1.tar.xz")
"""Two loads of each feed, a replica and a rejected record, by version 0.1.0 before it had packages."""
REPLICAS = {"replicas": [{"source_table": "users", "target": "people_silver", "keys": ["user_id"]}]}


def test_lakehouse_of_an_earlier_version_opens_reports_and_increments(lakehouse, deliver, tmp_path):
    with tarfile.open(STORED) as stored:
        stored.extractall(tmp_path, filter="data")
    old = lakehouse("old", landing_path=str(tmp_path / "old/landing"), cdc=REPLICAS)
    before = versions(old)

    assert selection.pending(old) == []
    assert all(entry.version >= 0 for entry in catalog.entries(old).values())
    assert health.report(old).rows and "people_silver" in lineage.upstream(old, "people_silver")
    assert len(history.versions(old, tables.get(old, "app_events_silver"))) > 1
    assert "app_events/1.json" in trace.trace(old, "app_events_silver", ["e1"]).text()
    assert versions(old) == before

    landing = tmp_path / "old/landing"
    deliver("app_events/3.json", [event(1), event(50), {"event_id": "e51"}], landing)
    deliver("clickstream/3.json", [click(50)], landing)
    deliver("cdc_changes/3.json", [change("d", 20, {"user_id": "u2"}, None, db="shop")], landing)
    shutil.copytree(landing, tmp_path / "landing")
    clean = lakehouse("clean", cdc=REPLICAS)
    for lake in (old, clean):
        run_tables(lake)
    assert_same(old, clean)
    assert len(delta.read_ops(old, "ledger")) > len(before)
