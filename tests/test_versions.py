"""The order of changes: the resulting row depends on nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_lib import config
from lakehouse_lib.layers import versions

START = datetime(2026, 3, 1, tzinfo=UTC)
SCHEMA = """cdc_id string, table_name string, source_database string, operation_type string, change_timestamp timestamp,
    _log string, _position string, _snapshot boolean, _before map<string,string>, _after map<string,string>,
    _types map<string,string>, _unchanged array<string>, before_values string, after_values string,
    primary_key string, _source_file string, _source_line bigint, _quality_flags array<string>"""

CHANGES = st.lists(
    st.fixed_dictionaries({
        "key": st.integers(0, 9), "log": st.sampled_from([None, "a", "b"]), "position": st.integers(0, 5),
        "snapshot": st.booleans(), "time": st.integers(0, 8), "partial": st.booleans(),
        "operation": st.sampled_from(["INSERT", "UPDATE", "UPDATE", "DELETE"]), "a": st.integers(0, 3),
        "b": st.sampled_from([None, "x", "y"]),
    }) | st.fixed_dictionaries({
        "key": st.none(), "log": st.sampled_from([None, "a", "b"]), "position": st.integers(0, 5),
        "snapshot": st.just(False), "time": st.integers(0, 8), "operation": st.just("TRUNCATE"),
    }), min_size=1, max_size=150,
)  # fmt: skip


def expected(changes: list[dict[str, Any]], key: int) -> dict[str, str] | None:
    """The row of a key by the documented order, and nothing else."""
    row_changes: dict[Any, dict[str, Any]] = {}
    for line, change in enumerate(changes):
        if change["key"] in (key, None):
            content = tuple(value for name, value in change.items() if name != "position" or change["log"])
            row_changes.setdefault(content, change | {"line": line})  # a change that comes again is the first of them
    logs: dict[str | None, list[dict[str, Any]]] = {}
    for change in row_changes.values():
        logs.setdefault(change["log"], []).append(change)
    for log, listed in logs.items():
        listed.sort(key=lambda item: (item["position"], not item["snapshot"], item["time"], item["line"]))
        reached = float("-inf")
        for place, change in enumerate(listed):
            change["moment"] = change["time"]
            if log:
                later = [earlier["time"] for earlier in listed[place:] if not earlier["snapshot"]]
                read = (
                    min([change["time"], *(time - 0.001 for time in later)]) if change["snapshot"] else change["time"]
                )
                change["moment"] = reached = max(reached, read)

    def place(item: dict[str, Any]) -> tuple:
        within = (item["log"], item["position"]) if item["log"] else ()
        return item["moment"], bool(item["log"]), within, not item["snapshot"], item["time"], item["line"]

    row: dict[str, str] | None = None
    for change in sorted(row_changes.values(), key=place):
        removed = change["operation"] in versions.REMOVALS
        row = None if removed else (row or {} if change["partial"] else {}) | named(change)
    return row


def named(change: dict[str, Any]) -> dict[str, str]:
    both = {"id": f"s{change['key']}", "a": f"n{change['a']}"}
    return both if change["b"] is None else both | {"b": f"s{change['b']}"}


def as_bronze(change: dict[str, Any], line: int) -> tuple:
    has_row = change["operation"] not in versions.REMOVALS
    before = {"id": f"s{change['key']}"} if change["operation"] == "DELETE" else None
    unchanged = ["*"] if has_row and change["partial"] else None
    after = named(change) if has_row else None
    texts = [str(change.get(name)) for name in ("a", "b", "partial")]  # what the texts of a message would be
    return ("c", "t", "d", change["operation"], START + timedelta(seconds=change["time"]), change["log"],
            str(change["position"]) if change["log"] else None, change["snapshot"], before, after, None, unchanged,
            None, " ".join(texts), None, "f", line, [])  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, random=st.randoms(use_true_random=False))
def test_result_depends_only_on_the_documented_order(spark, changes, random):
    rows = [as_bronze(change, line) for line, change in enumerate(changes)]
    random.shuffle(rows)
    frame = spark.createDataFrame(rows, SCHEMA)
    inputs = SimpleNamespace(full=True, settings=config.load({}), new=lambda name: frame)
    result = versions.of(inputs, "t", ["id"])
    last: dict[int, Any] = {}
    for row in sorted(result.rows.collect(), key=lambda row: row["_n"]):
        last[int(json.loads(row["_key"])["id"])] = row["_row"]
    keys = {change["key"] for change in changes} - {None}
    assert last == {key: expected(changes, key) for key in keys}


def told(spark, changes: list[dict[str, Any]]) -> list[Any]:
    """The versions that changes make, in order."""
    frame = spark.createDataFrame([as_bronze(change, line) for line, change in enumerate(changes)], SCHEMA)
    inputs = SimpleNamespace(full=True, settings=config.load({}), new=lambda name: frame)
    return sorted(versions.of(inputs, "t", ["id"]).rows.collect(), key=lambda row: row["_n"])


def test_a_row_of_a_snapshot_that_is_read_late_delays_no_change(spark):
    """The changes after it keep their times, and so their place among those of another log."""
    change = {"key": 1, "partial": False, "snapshot": False, "b": None, "operation": "UPDATE"}
    changes = [change | {"log": "a", "position": 1, "time": 9, "snapshot": True, "a": 1},
               change | {"log": "a", "position": 2, "time": 3, "a": 2},
               change | {"log": "b", "position": 7, "time": 5, "a": 3}]  # fmt: skip
    actual = told(spark, changes)
    assert [row["_row"]["a"] for row in actual] == ["n1", "n2", "n3"]
    start = round(START.timestamp() * 1_000_000)
    assert [row["_moment"] - start for row in actual] == [2_999_000, 3_000_000, 5_000_000]
