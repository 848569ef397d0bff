"""Change formats and replicas, the published cases among them."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import change
from lake import rows

from lakehouse_lib import cdc, pipeline, reader

PRODUCTS = [("debezium-data-schema-exclude.txt", "products", "debezium"), ("maxwell-data.txt", "product", "maxwell"),
            ("canal-data.txt", "products2", "canal")]  # fmt: skip


def load(settings, names):
    result = pipeline.run(settings.model_copy(update={"tables": ",".join(names)}), progress=lambda line: None)
    result.check()
    return {step.table: step.counts for step in result.steps}


def replica_of(lakehouse, source, keys=("id",), name="lake"):
    return lakehouse(name, cdc={"replicas": [{"source_table": source, "target": "copy_silver", "keys": list(keys)}]})


LAYERS = ("cdc_changes_bronze", "cdc_changes_bronze_quarantine", "copy_silver")


@pytest.mark.parametrize(("file", "source", "case"), PRODUCTS)
def test_published_changelogs_end_in_their_published_table(lakehouse, shared, tmp_path, file, source, case):
    folder = shared / "flink_cdc_products"
    (tmp_path / "landing/cdc_changes").mkdir(parents=True)
    shutil.copy(folder / file, tmp_path / "landing/cdc_changes/a.json")
    lake = replica_of(lakehouse, source)
    load(lake, LAYERS)
    expected = json.loads((folder / "expected.json").read_text())[case]
    rejected = reader.query(lake, "SELECT DISTINCT reasons[1] r FROM cdc_changes_bronze_quarantine").r
    assert set(rejected) <= {"not_a_row_change"}
    found = [r for r in rows(lake, "copy_silver") if not r["is_deleted"]]
    assert len(found) == expected["final_rows"]
    table = expected["table"]
    by_id = {int(r["id"]): r for r in found}
    for want in table:
        row = by_id[int(want["id"])]
        assert (row["name"], row["description"]) == (want["name"], want["description"])
        assert round(float(row["weight"]), 3) == round(float(want["weight"]), 3)


def test_every_envelope_is_recognised_per_record(lakehouse, deliver):
    row = {"id": 1, "name": "a"}
    maxwell = {"database": "d", "table": "t", "type": "update", "ts": 1772445603, "xid": 5, "xoffset": 0,
               "data": row | {"name": "c"}, "old": {"name": "b"}, "primary_key_columns": ["id"]}  # fmt: skip
    canal = {"data": [{"id": "2", "name": "x"}, {"id": "3", "name": "y"}], "database": "d", "table": "t",
             "es": 1772445604000, "id": 9, "isDdl": False, "old": None, "pkNames": ["id"], "type": "INSERT",
             "ts": 1772445604100}  # fmt: skip
    flat = {"cdc_id": "f1", "table_name": "t", "operation_type": "DELETE", "primary_key": '{"id": 4}',
            "before_values": {"id": 4}, "timestamp": "2026-03-02T10:00:05Z", "sequence": 7, "extra": 1}  # fmt: skip
    deliver("cdc_changes/a.json", [
        change("c", 1, None, row, table="t"),
        {"schema": {"type": "struct"}, "payload": change("u", 2, row, row | {"name": "b"}, table="t")},
        maxwell, canal, flat,
        {"schema": None, "payload": None}, "null",
        {"source": {}, "databaseName": "d", "ddl": "ALTER TABLE t", "tableChanges": []},
        {"what": "is this"},
        change("x", 3, None, row, table="t"),
        change("c", 4, None, None, table="t"),
    ])  # fmt: skip
    lake = lakehouse()
    counts = load(lake, LAYERS[:2])["cdc_changes_bronze"]
    assert counts["records_read"] == 12 and counts["quarantined"] == 6  # the Canal message holds two changes
    good = reader.query(
        lake,
        """
        SELECT operation_type o, after_values a, before_values b, primary_key k, _rescued_data r
        FROM cdc_changes_bronze WHERE len(_quality_flags) = 0 ORDER BY change_timestamp, a""",
    )
    assert list(good.o) == ["INSERT", "UPDATE", "UPDATE", "INSERT", "INSERT", "DELETE"]
    assert json.loads(good.b[2]) == {"id": "1", "name": "b"} and json.loads(good.k[2]) == {"id": "1"}
    assert json.loads(good.r[5]) == {"extra": "1"}
    reasons = reader.query(
        lake, "SELECT reasons[1] r, count(*) n FROM cdc_changes_bronze_quarantine GROUP BY 1 ORDER BY 1"
    )
    assert dict(zip(reasons.r, reasons.n, strict=True)) == {
        "missing_row": 1, "not_a_row_change": 3, "unknown_envelope": 1, "unknown_operation": 1}  # fmt: skip


def test_replicas_evolve_and_do_not_depend_on_the_order_of_arrival(lakehouse, deliver, tmp_path):
    """A new column, a column that needs a wider type, a changed key, a delete that came first."""
    own = {"table": "t"}
    first = [change("c", 1, None, {"id": 1, "n": 1}, **own), change("c", 2, None, {"id": 2, "n": 2}, **own)]
    second = [
        change("u", 3, {"id": 1, "n": 1}, {"id": 1, "n": 1.5, "city": "Ulm"}, **own),
        change("u", 4, {"id": 2, "n": 2}, {"id": 7, "n": 2}, **own),
        change("d", 9, {"id": 8}, None, **own),
    ]
    third = [
        change("c", 5, None, {"id": 8, "n": "many"}, **own),
        change("c", 6, None, {"id": None, "n": 1}, **own),
    ]
    lakes = []
    for name, parts in {"once": [first + second + third], "steps": [third, first, second, second]}.items():
        lake = replica_of(lambda n, **more: lakehouse(n, landing_path=str(tmp_path / name), **more), "t", name=name)
        for number, part in enumerate(parts):
            deliver(f"cdc_changes/{number}.json", part + ["\n"] * number, tmp_path / name)
            load(lake, LAYERS)
        lakes.append(lake)
    once, steps = ([r for r in rows(lake, "copy_silver")] for lake in lakes)
    assert once == steps
    by_id = {r["id"]: r for r in once if not r["is_deleted"]}
    assert {i: (r["n"], r["city"]) for i, r in by_id.items()} == {1: ("1.5", "Ulm"), 7: ("2", None)}
    assert sum(r["is_deleted"] for r in once) == 2
    (lost,) = reader.query(lakes[0], "SELECT reasons[1] r FROM cdc_changes_bronze_quarantine").r
    assert lost == "missing_key"


def test_column_types_hold_the_values_of_both():
    assert cdc.merged_types({"a": "bigint", "b": "bigint"}, {"a": "double", "b": "boolean", "c": "string"}) == {
        "a": "double", "b": "string", "c": "string"}  # fmt: skip
