"""Change formats and replicas, the published cases among them."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from functools import partial

import pytest
from conftest import change
from lake import rows

from lakehouse_lib.catalog import catalog, lineage
from lakehouse_lib.errors import LakehouseError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.intake.connect_types import PLACEHOLDER
from lakehouse_lib.layers import replicas
from lakehouse_lib.storage import reader

PRODUCTS = [
    ("debezium-data-schema-exclude.txt", "products", "debezium"),
    ("maxwell-data.txt", "product", "maxwell"),
    ("canal-data.txt", "products2", "canal"),
]


def load(settings, names):
    result = pipeline.run(settings.model_copy(update={"tables": ",".join(names)}), progress=lambda line: None)
    result.check()
    return {step.table: step.counts for step in result.steps}


def replica_of(lakehouse, source, keys=("id",), name="lake"):
    return lakehouse(name, cdc={"replicas": [{"source_table": source, "target": "copy_silver", "keys": list(keys)}]})


LAYERS = ("cdc_changes_bronze", "cdc_changes_bronze_quarantine", "copy_silver")


@pytest.mark.parametrize(("file", "source", "case"), PRODUCTS)
def test_published_changelogs_produce_their_published_table(lakehouse, shared, tmp_path, file, source, case):
    folder = shared / "flink_cdc_products"
    (tmp_path / "landing/cdc_changes").mkdir(parents=True)
    shutil.copy(folder / file, tmp_path / "landing/cdc_changes/a.json")
    lake = replica_of(lakehouse, source)
    load(lake, LAYERS)
    expected = json.loads((folder / "expected.json").read_text())[case]
    rejected = reader.query(lake, "SELECT DISTINCT reasons[1] r FROM cdc_changes_bronze_quarantine").r
    assert set(rejected) <= {"schema_change", "bootstrap_marker", "tombstone"}
    actual = [r for r in rows(lake, "copy_silver") if not r["is_deleted"]]
    assert len(actual) == expected["final_rows"]
    table = expected["table"]
    by_id = {int(r["id"]): r for r in actual}
    for want in table:
        row = by_id[int(want["id"])]
        assert (row["name"], row["description"]) == (want["name"], want["description"])
        assert round(float(row["weight"]), 3) == round(float(want["weight"]), 3)


def test_envelopes_are_recognised_per_record(lakehouse, deliver):
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
    assert json.loads(good.b[2]) == {"id": 1, "name": "b"} and json.loads(good.k[2]) == {"id": 1}
    assert json.loads(good.r[5]) == {"extra": "1"}
    reasons = reader.query(
        lake, "SELECT reasons[1] r, count(*) n FROM cdc_changes_bronze_quarantine GROUP BY 1 ORDER BY 1"
    )
    assert dict(zip(reasons.r, reasons.n, strict=True)) == {
        "missing_row": 1, "schema_change": 1, "tombstone": 2, "unknown_envelope": 1,
        "unknown_operation": 1}  # fmt: skip


def test_replicas_evolve_and_are_independent_of_arrival_order(lakehouse, deliver, tmp_path):
    """A new column, a column that needs a wider type, a changed key, a delete that arrives first."""
    source = {"table": "t"}
    first = [change("c", 1, None, {"id": 1, "n": 1}, **source), change("c", 2, None, {"id": 2, "n": 2}, **source)]
    second = [
        change("u", 3, {"id": 1, "n": 1}, {"id": 1, "n": 1.5, "city": "Ulm"}, **source),
        change("u", 4, {"id": 2, "n": 2}, {"id": 7, "n": 2}, **source),
        change("d", 9, {"id": 8}, None, **source),
    ]
    third = [
        change("c", 5, None, {"id": 8, "n": "many"}, **source),
        change("c", 6, None, {"id": None, "n": 1}, **source),
    ]
    lakes = []
    for name, parts in {"once": [first + second + third], "steps": [third, first, second, second]}.items():
        lake = replica_of(partial(lakehouse, landing_path=str(tmp_path / name)), "t", name=name)
        for number, part in enumerate(parts):
            deliver(f"cdc_changes/{number}.json", part + ["\n"] * number, tmp_path / name)
            load(lake, LAYERS)
        lakes.append(lake)
    once, steps = (rows(lake, "copy_silver") for lake in lakes)
    assert once == steps
    by_id = {r["id"]: r for r in once if not r["is_deleted"]}
    assert {i: (r["n"], r["city"]) for i, r in by_id.items()} == {1: ("1.5", "Ulm"), 7: ("2", None)}
    assert {r["id"] for r in once if r["is_deleted"]} == {2, 8}
    (lost,) = reader.query(lakes[0], "SELECT reasons[1] r FROM cdc_changes_bronze_quarantine").r
    assert lost == "missing_key"


TYPES = [
    ({"int"}, 5, 0, False, "bigint"),
    ({"int"}, 19, 0, True, "decimal(38,0)"),
    ({"int", "fraction"}, 6, 2, False, "decimal(38,2)"),
    ({"fraction"}, 30, 9, False, "string"),
    ({"double", "int"}, 3, 0, False, "double"),
    ({"double", "int"}, 16, 0, False, "string"),
    ({"double", "bigint"}, 0, 0, False, "double"),
    ({"double", "decimal(20,2)"}, 0, 0, False, "string"),
    ({"boolean", "int"}, 1, 0, False, "string"),
    ({"decimal(10,2)"}, 0, 0, False, "decimal(10,2)"),
    ({"decimal(10,2)", "decimal(9,4)"}, 0, 0, False, "decimal(12,4)"),
    ({"decimal(10,2)", "bigint"}, 0, 0, False, "decimal(21,2)"),
    ({"decimal(10,2)", "int"}, 3, 0, False, "decimal(38,2)"),
    ({"date", "timestamp"}, 0, 0, False, "timestamp"),
    ({"date", "string"}, 0, 0, False, "string"),
    ({"date"}, 0, 0, False, "date"),
]


@pytest.mark.parametrize(("kinds", "whole", "fraction", "big", "expected"), TYPES)
def test_column_types_can_hold_all_observed_values(kinds, whole, fraction, big, expected):
    seen = replicas.Observed("a", frozenset(kinds), whole, fraction, big, whole + fraction)
    assert replicas.type_of(seen) == expected and replicas.holds(expected, seen)


@pytest.mark.parametrize(("kind", "came", "whole", "fraction", "stays"), [
    ("bigint", {"int"}, 19, 0, True), ("bigint", {"fraction"}, 1, 1, False), ("boolean", {"int"}, 1, 0, False),
    ("decimal(38,2)", {"int"}, 36, 0, True), ("decimal(38,2)", {"int"}, 37, 0, False),
    ("decimal(38,2)", {"fraction"}, 1, 3, False), ("decimal(38,2)", {"bigint"}, 0, 0, True),
    ("decimal(38,2)", {"double"}, 1, 1, False), ("decimal(38,2)", {"string"}, 0, 0, False),
    ("decimal(12,4)", {"decimal(9,4)"}, 0, 0, True), ("decimal(9,4)", {"decimal(10,2)"}, 0, 0, False),
    ("timestamp", {"date"}, 0, 0, True), ("date", {"timestamp"}, 0, 0, False), ("double", {"int"}, 15, 0, True),
    ("double", {"int"}, 16, 0, False), ("string", {"double", "boolean"}, 9, 9, True),
])  # fmt: skip
def test_a_column_keeps_its_type_while_it_holds_what_comes(kind, came, whole, fraction, stays):
    seen = replicas.Observed("a", frozenset(came), whole, fraction, whole > 19, whole + fraction)
    assert replicas.holds(kind, seen) is stays


def test_columns_without_a_schema_get_the_narrowest_type_of_their_values(lakehouse, deliver):
    lines = [
        '{"id": 1, "n": 9223372036854775807, "wide": -9223372036854775809, "money": 12.50, "long": 1234567890123456789.'
        '12345678901234567890, "tiny": 1e-3, "exact": 1e-3, "flag": true, "text": "1", "mixed": true, "none": null}',
        '{"id": 2, "n": null, "wide": 1, "money": -700, "long": 1, "tiny": 123456789.012345, "exact": '
        '1234567890.123456, "flag": null, "text": "2", "mixed": 1, "none": null}',
    ]
    deliver("cdc_changes/a.json", [row("insert", n, None) | {"after_values": line} for n, line in enumerate(lines)])
    lake = replica_of(lakehouse, "*.t")
    load(lake, LAYERS)
    columns = {column["name"]: column["type"] for column in json.loads(catalog.describe(lake, "copy_silver").columns)}
    expected = {"n": "bigint", "wide": "decimal(38,0)", "money": "decimal(38,2)", "long": "string", "tiny": "double",
              "exact": "string", "flag": "boolean", "text": "string", "mixed": "string"}  # fmt: skip
    assert {name: columns[name] for name in expected} == expected and "none" not in columns
    first, second = sorted(rows(lake, "copy_silver"), key=lambda r: r["id"])
    assert [first[name] for name in ("n", "wide", "money", "flag")] == [2**63 - 1, -(2**63) - 1, Decimal("12.5"), True]
    assert [second[name] for name in ("n", "wide", "money", "flag")] == [None, 1, -700, None]
    assert (first["long"], second["exact"]) == ("1234567890123456789.12345678901234567890", "1234567890.123456")


def test_column_names_are_readable_and_unique():
    sources = ["order id", "order_id", "order.id", "is_deleted", "_key", "", "größe", "source_key"]
    names = replicas.column_names(sources)
    assert replicas.column_names(sources[::-1]) == names
    assert names == {
        "order_id": "order_id", "order id": "order_id_2", "order.id": "order_id_3", "is_deleted": "source_is_deleted",
        "_key": "source_key_2", "source_key": "source_key", "": "unnamed", "größe": "größe"}  # fmt: skip


def row(operation: str, minute: int, values: dict | None, **more) -> dict:
    """A flat change."""
    return {"table_name": "t", "operation_type": operation, "after_values": values,
            "timestamp": f"2026-03-02T10:{minute:02}:00Z"} | more  # fmt: skip


@pytest.mark.parametrize(("absent", "expected"), [("unchanged", "y"), (None, None)])
def test_columns_absent_from_a_flat_update_follow_the_parameters(lakehouse, deliver, absent, expected):
    """YAML reads ``null`` as None. A placeholder means "unchanged" in both cases, as in a patch of MongoDB."""
    mongo = {"connector": "mongodb", "collection": "t", "db": "d"}
    deliver("cdc_changes/a.json", [
        row("insert", 0, {"id": 1, "a": "x", "b": "y", "c": "z"}),
        row("update", 5, {"id": 1, "a": "new", "c": "__debezium_unavailable_value"}),
        {"op": "r", "after": '{"id": 2, "a": "x", "b": "m"}', "source": mongo | {"ts_ms": 1772445600000}},
        {"op": "u", "after": None, "patch": '{"$set": {"a": "new"}}', "filter": '{"id": 2}',
         "source": mongo | {"ts_ms": 1772445601000}},
    ])  # fmt: skip
    lake = lakehouse(
        cdc={"absent": absent, "replicas": [{"source_table": "*.t", "target": "copy_silver", "keys": ["id"]}]}
    )
    load(lake, LAYERS)
    actual = {r["id"]: (r["a"], r["b"], r["c"]) for r in rows(lake, "copy_silver")}
    assert actual == {1: ("new", expected, "z"), 2: ("new", "m", None)}
    assert "cdc_changes_bronze._after" in lineage.columns(lake)["copy_silver.b"].direct


@pytest.mark.parametrize("runs", [1, 3])
def test_a_row_keeps_what_updates_leave_out_when_its_key_changes_twice(lakehouse, deliver, runs):
    changes = [
        row("insert", 0, {"id": 1, "a": "x", "b": "y"}), row("insert", 0, {"id": 9, "a": "other", "b": "row"}),
        row("update", 1, {"id": 2, "a": "new"}, before_values={"id": 1}),
        row("update", 2, {"id": 3, "b": "z"}, before_values={"id": 2}),
    ]  # fmt: skip
    lake = lakehouse(
        cdc={"absent": "unchanged", "replicas": [{"source_table": "*.t", "target": "copy_silver", "keys": ["id"]}]}
    )
    for part in [changes] if runs == 1 else [changes[:2], changes[2:3], changes[3:]]:
        deliver(f"cdc_changes/{part[-1]['timestamp']}.json", part)
        counts = load(lake, LAYERS)["copy_silver"]
        assert (counts["records_read"], counts["accepted"]) == (len(part), len(part))
    actual = rows(lake, "copy_silver")
    assert {r["id"]: (r["a"], r["b"]) for r in actual if not r["is_deleted"]} == {3: ("new", "z"), 9: ("other", "row")}
    assert {r["id"] for r in actual if r["is_deleted"]} == {1, 2}


def test_unrecognised_feed_fails_and_shows_two_records(lakehouse, deliver):
    deliver(
        "cdc_changes/a.json", [{"kind": "put", "n": 1}, {"kind": "put", "n": 2}, {"kind": "put", "n": 3}, "no json"]
    )
    lake = lakehouse()
    with pytest.raises(LakehouseError) as raised:
        load(lake, LAYERS[:2])
    assert str(raised.value).count('{"kind": "put"') == 2 and "feeds.cdc_changes.select" in str(raised.value)
    assert "Debezium" in str(raised.value)
    deliver("cdc_changes/b.json", [row("insert", 0, {"id": 1})])  # one change is enough
    counts = load(lake, LAYERS[:2])["cdc_changes_bronze"]
    assert (counts["accepted"], counts["quarantined"]) == (1, 4)
    deliver("cdc_changes/c.json", [{"kind": "put", "n": 4}, {"kind": "put", "n": 5}])  # a stranger among changes
    assert load(lake, LAYERS[:2])["cdc_changes_bronze"]["quarantined"] == 2


@pytest.mark.parametrize("records", [[{"kind": "put"}], [{"ts_ms": 1772445600000}, {"ts_ms": 1772445601000}]])
def test_single_unknown_record_or_only_heartbeats_do_not_fail_the_load(lakehouse, deliver, records):
    deliver("cdc_changes/a.json", records)
    assert load(lakehouse(), LAYERS[:2])["cdc_changes_bronze"]["quarantined"] == len(records)


def test_a_change_whose_key_or_row_is_no_json_is_set_aside(lakehouse, deliver):
    deliver(
        "cdc_changes/a.json",
        [
            row("delete", 0, None, primary_key='{"id": '),
            row("insert", 0, None) | {"after_values": '{"id": '},
            row("update", 0, {"id": 1}, before_values='{"id": '),
            row("insert", 0, {"id": 2}, primary_key='{"id": 2}'),
        ],
    )
    lake = lakehouse()
    load(lake, LAYERS[:2])
    rejected = rows(lake, "cdc_changes_bronze_quarantine", ["reasons"])
    assert sorted(record["reasons"] for record in rejected) == [
        ["invalid_after_values"], ["invalid_before_values"], ["invalid_primary_key"]]  # fmt: skip


def test_a_key_of_two_columns_is_whole_or_missing(lakehouse, deliver):
    deliver("cdc_changes/a.json", [
        change("c", n, None, after | {"v": n}, table="t")
        for n, after in enumerate([{"id": 1, "at": "n"}, {"id": 1, "at": "s"}, {"id": 2}, {"at": "n"}])])  # fmt: skip
    lake = replica_of(lakehouse, "t", keys=("id", "at"))
    load(lake, LAYERS)
    assert sorted((r["id"], r["at"], r["v"]) for r in rows(lake, "copy_silver")) == [(1, "n", 0), (1, "s", 1)]
    assert [r["reasons"] for r in rows(lake, "cdc_changes_bronze_quarantine", ["reasons"])] == [["missing_key"]] * 2


def test_a_table_of_several_databases_has_to_be_named_in_full(lakehouse, deliver):
    deliver("cdc_changes/a.json", [
        change("c", n, None, {"id": n}, table="t", db=name) for n, name in enumerate(("east", "west"))])  # fmt: skip
    lake = replica_of(lakehouse, "t")
    with pytest.raises(LakehouseError, match=r"t is a table of several databases: east, west\. .*: east\.t, or \*\.t "):
        load(lake, LAYERS)
    for number, (source, ids) in enumerate({"east.t": [0], "*.t": [0, 1]}.items()):
        lake = replica_of(lakehouse, source, name=f"lake{number}")
        load(lake, LAYERS)
        assert [r["id"] for r in rows(lake, "copy_silver")] == ids


def test_catalog_shows_names_and_types_of_the_source(lakehouse, deliver):
    amount = {"field": "Net Amount", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
              "parameters": {"scale": "2", "connect.decimal.precision": "10"}}  # fmt: skip
    after = {"field": "after", "type": "struct", "fields": [{"field": "id", "type": "int64"}, amount]}
    deliver("cdc_changes/a.json", [
        {"schema": {"type": "struct", "fields": [after]},
         "payload": change("c", 1, None, {"id": 1, "Net Amount": "BNI="}, table="t")}])  # fmt: skip
    lake = replica_of(lakehouse, "t")
    load(lake, LAYERS)
    columns = {column["name"]: column for column in json.loads(catalog.describe(lake, "copy_silver").columns)}
    net_amount = columns["net_amount"]
    assert (net_amount["type"], net_amount["comment"]) == ("decimal(10,2)", 'source column "Net Amount"')
    deliver("cdc_changes/b.json", [change("c", 2, None, {"id": 2, "größe?": "L"}, table="t")])
    load(lake, LAYERS)
    assert [entry.name for entry in catalog.search(lake, "column:größe?")] == ["copy_silver"]
    columns = {column["name"]: column for column in json.loads(catalog.describe(lake, "copy_silver").columns)}
    assert columns["größe_"]["comment"] == 'source column "größe?", as it came: no schema says its type'


def postgres(op: str, second: int, after: dict | None, **source) -> dict:
    place = {"connector": "postgresql", "name": "pg", "ts_ms": 1_772_445_600_000 + second * 1000}
    return {"op": op, "before": None, "after": after, "source": place | source}


def canal(kind: str, rows: list[dict], **more) -> dict:
    return {"database": "d", "type": kind, "isDdl": False, "es": 1_772_445_600_000, "id": 7, "pkNames": ["id"],
            "data": rows, "old": None} | more  # fmt: skip


def maxwell(kind: str, data: dict, **more) -> dict:
    return {"database": "d", "type": kind, "ts": 1_772_445_600, "data": data, "primary_key_columns": ["id"]} | more


REPORTED = {
    "a_snapshot_beside_an_open_transaction": ([
        postgres("r", 0, {"id": 1, "v": "old"}, lsn=200, sequence='[null,"200"]', snapshot="true"),
        postgres("u", 1, {"id": 1, "v": "new"}, lsn=150, sequence='["200","150"]')], [(1, "new")]),
    "an_oracle_commit": ([
        postgres("r", 0, {"id": 1, "v": "old"}, scn="200", snapshot="true"),
        postgres("u", 1, {"id": 1, "v": "new"}, scn="150", commit_scn="210")], [(1, "new")]),
    "two_changes_of_one_scn": ([
        postgres("u", 0, {"id": 1, "v": "new"}, scn="200", rs_id="0x0001.000a.0020", ssn=1),
        postgres("c", 0, {"id": 1, "v": "old"}, scn="200", rs_id="0x0001.0009.0010", ssn=0)], [(1, "new")]),
    "messages_of_one_batch": ([
        canal("UPDATE", [{"id": 2, "v": "one"}, {"id": 1, "v": "one"}]), canal("UPDATE", [{"id": 1, "v": "two"}])],
        [(1, "two"), (2, "one")]),
    "ids_that_differ": ([
        row("insert", 0, {"id": 1, "v": "a"}, cdc_id="1"), row("delete", 0, None, primary_key={"id": 1}, cdc_id="2"),
        row("insert", 0, {"id": 1, "v": "a"}, cdc_id="3")], [(1, "a")]),
    "the_last_row_of_a_transaction": ([
        maxwell("update", {"id": 4 - n, "v": "x"}, old={"id": 3 - n}, position="m.000001:500",
                **({"commit": True} if n == 2 else {"xoffset": n})) for n in range(3)],
        [(2, "x"), (3, "x"), (4, "x")]),
    "a_hexadecimal_sequence": ([
        row("insert", 0, {"id": 1, "v": "new"}, sequence="0x000000A0000001880003"),
        row("insert", 0, {"id": 1, "v": "old"}, sequence="0x0000002A000001880003")], [(1, "new")]),
    "a_place_of_db2": ([
        postgres("u", 0, {"id": 1, "v": "new"}, commit_lsn="00000000:00000000:00000000000459f0"),
        postgres("u", 0, {"id": 1, "v": "old"}, commit_lsn="00000000:00000000:000000000004599f")], [(1, "new")]),
    "the_time_of_the_source": ([
        {"id": 1, "v": "new", "__op": "u", "__ts_ms": 1772445610000, "__source_ts_ms": 1772445609000},
        {"id": 1, "v": "old", "__op": "u", "__ts_ms": 1772445660000, "__source_ts_ms": 1772445601000}], [(1, "new")]),
    "columns_named_like_an_envelope": ([
        {"id": 1, "v": "x", "type": "postgres", "database": "sales", "__op": "c", "__v": 7,
          "__source_ts_ms": 1772445600000}], [(1, "x")]),
    "a_placeholder_in_a_text": ([
        row("insert", 0, {"id": 1, "v": {"k": "v"}}),
        row("update", 1, {"id": 1, "v": json.dumps({PLACEHOLDER: PLACEHOLDER}, separators=(",", ":"))})],
        [(1, '{"k":"v"}')]),
    "placeholders_in_arrays": ([
        row("insert", 0, {"id": 1, "v": [1.5]}),
        row("update", 1, {"id": 1, "v": [float(number) for number in PLACEHOLDER.encode()]}),
        row("update", 2, {"id": 1, "v": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]}),
        row("update", 3, {"id": 1, "v": [True] * len(PLACEHOLDER)})], [(1, "[1.5]")]),
    "an_old_key_beside_the_row": ([
        row("insert", 0, {"id": 1, "v": "a"}), row("update", 1, {"id": 2, "v": "a"}, primary_key={"id": 1})],
        [(2, "a")]),
    "an_update_without_its_key": ([
        row("insert", 0, {"id": 1, "v": "a"}), row("update", 1, {"v": "b"}, before_values={"id": 1})], [(1, "b")]),
    "a_primary_key_that_is_no_object": ([
        row("insert", 0, {"id": 1, "v": "a"}), row("insert", 0, {"id": 2, "v": "b"}),
        row("delete", 1, None, primary_key="2")], [(1, "a")]),
    "numbers_that_a_type_cannot_hold": ([
        canal("INSERT", [{"id": 1, "v": "123456789012.5"}], mysqlType={"id": "", "v": "decimal(65,30)"})],
        [(1, "123456789012.5")]),
}  # fmt: skip


def of_table(name: str, message: dict) -> dict:
    """A message with its table name where its format has it."""
    if "source" in message:
        return message | {"source": message["source"] | {"table": name}}
    word = "__table" if "__op" in message else "table_name" if "operation_type" in message else "table"
    return message | {word: name}


def test_changes_from_public_reports_produce_the_right_rows(lakehouse, deliver):
    for name, (messages, _) in REPORTED.items():
        deliver(f"cdc_changes/{name}.json", [of_table(name, message) for message in messages])
    replicated = [{"source_table": name, "target": f"{name}_silver", "keys": ["id"]} for name in REPORTED]
    lake = lakehouse(cdc={"replicas": replicated})
    load(lake, [*LAYERS[:2], *(replica["target"] for replica in replicated)])
    actual = {
        name: sorted((int(r["id"]), r["v"]) for r in rows(lake, f"{name}_silver") if not r["is_deleted"])
        for name in REPORTED
    }
    assert actual == {name: expected for name, (_, expected) in REPORTED.items()}


def test_mapped_feed_accepts_changes_of_any_format(lakehouse, deliver):
    """Expressions see the original message; a change that they produce has no schema."""
    deliver(
        "cdc_changes/a.json",
        [
            postgres("c", 0, {"id": 1, "v": "x"}, table="ignored", schema="s", lsn=5),
            {"what": "put", "ddl": "t", "new": '{"id": 2, "v": "y"}', "at": "2026-03-02T10:00:00Z", "n": "0/10000000"},
            {"what": "put", "ddl": "t", "new": '{"id": 2, "v": "z"}', "at": "2026-03-02T10:00:00Z", "n": "0/9FFFFFF"},
        ],
    )
    select = {"table_name": "coalesce(ddl, 't')", "operation_type": "coalesce(replace(what, 'put', 'insert'), op)",
              "after_values": "coalesce(new, after)", "change_timestamp": "coalesce(at, '2026-03-02T10:00:00Z')",
              "sequence": "n"}  # fmt: skip
    lake = lakehouse(
        feeds={"cdc_changes": {"select": select}},
        cdc={"replicas": [{"source_table": "*.t", "target": "copy_silver", "keys": ["id"]}]},
    )
    load(lake, LAYERS)
    assert sorted((r["id"], r["v"]) for r in rows(lake, "copy_silver")) == [(1, "x"), (2, "y")]


def test_a_mapped_feed_takes_the_rest_from_fields_of_their_names(lakehouse, deliver):
    """Its updates may leave columns out, and its sequence orders them."""
    deliver(
        "cdc_changes/a.json",
        [
            {"what": "insert", "after_values": {"id": 1, "a": "x", "b": "y"}, "sequence": 8},
            {"what": "update", "after_values": {"id": 1, "a": "new"}, "sequence": 10},
            {"what": "update", "after_values": {"id": 1, "a": "old"}, "sequence": 9},
        ],
    )
    select = {"table_name": "'t'", "operation_type": "what", "change_timestamp": "'2026-03-02T10:00:00Z'"}
    lake = lakehouse(
        feeds={"cdc_changes": {"select": select}},
        cdc={"absent": "unchanged", "replicas": [{"source_table": "*.t", "target": "copy_silver", "keys": ["id"]}]},
    )
    load(lake, LAYERS)
    assert [(r["id"], r["a"], r["b"]) for r in rows(lake, "copy_silver")] == [(1, "new", "y")]
