"""Change data from public bug reports: in one load, in several runs, in reverse order of files, and rebuilt."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lake import assert_same, rows, run_tables

from lakehouse_lib import config
from lakehouse_lib.config import Settings
from lakehouse_lib.storage import reader

CASES = ("01-decimal-base64", "03-toast-placeholder", "07-late-snapshot", "12-canal-ddl-truncate")


def lake_of(engine: str, shared: Path, base: Path, landing: Path) -> Settings:
    parameter_files = [yaml.safe_load((shared / f"hunt/{case}/params.yml").read_text()) for case in CASES]
    replicas = [replica for params in parameter_files for replica in params["cdc"]["replicas"]]
    names = ["cdc_changes_bronze", "cdc_changes_bronze_quarantine", "users_history_silver"]
    return config.load(
        {
            "lakehouse_base_path": str(base),
            "landing_path": str(landing),
            "spark_master": engine,
            "sample": {"rows": 0},
            "tables": ",".join([*names, *(replica["target"] for replica in replicas)]),
            "cdc": {"replicas": replicas},
        }
    )


def deliver(shared: Path, landing: Path, part: str) -> None:
    for case in CASES:
        if (source := shared / "hunt" / case / part).is_dir():
            shutil.copytree(source / "cdc_changes", landing / "cdc_changes" / case, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def lake(engine, tmp_path_factory) -> Settings:
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip(f"the published cases are not here ({SHARED})")
    base = tmp_path_factory.mktemp("cases")
    settings = lake_of(engine, SHARED, base / "lake", base / "landing")
    deliver(SHARED, base / "landing", "landing")
    deliver(SHARED, base / "landing", "landing_run2")
    run_tables(settings)
    return settings


def live(lake: Settings, name: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows(lake, name) if not row["is_deleted"]]


def test_decimals_are_decoded_with_a_schema_and_stay_text_without(lake):
    actual = {row[0]: row[1:] for row in live(lake, "orders_silver", "id", "amount", "rate", "anyscale", "blob")}
    assert actual == {
        1: (Decimal("12.34"), Decimal("0.0001"), Decimal("1.234"), "AQID"),
        2: (Decimal("-1.50"), None, None, None),
        3: (Decimal("0.05"), Decimal("-0.0001"), None, None),
        4: (Decimal("1234567890123456789012.34"), None, None, None),
    }
    assert live(lake, "orders_plain_silver", "amount") == [("BNI=",)]


def test_placeholders_mean_the_previous_value(lake):
    assert live(lake, "articles_silver", "id", "title", "body", "tags", "img") == [
        (1, "A4", "second long body", '["x","y"]', "AQID"),
        (2, "Z1", None, '["q"]', None),
    ]
    history = [row for row in rows(lake, "users_history_silver") if row["user_id"] == "u1"]
    history.sort(key=lambda row: row["valid_from"])
    assert [(row["name"], row["email"]) for row in history] == [("Ann of the very long name", "ann@example.test")] * 3
    assert [row["valid_from"].isoformat()[:19] for row in history] == [
        f"2026-11-20T10:0{minute}:00" for minute in range(3)
    ]
    assert [(row["country"], row["plan"]) for row in history if row["is_current"]] == [("AT", "pro")]
    for name in ("articles_silver", "users_history_silver"):
        assert "__debezium" not in str(rows(lake, name)) and "X19kZWJl" not in str(rows(lake, name))


def test_late_snapshot_does_not_overwrite_newer_rows(lake):
    assert live(lake, "stock_silver", "id", "qty") == [(1, 510), (3, 510), (4, 2), (5, 9), (6, 6)]
    assert [row["id"] for row in rows(lake, "stock_silver") if row["is_deleted"]] == [2]


def test_canal_truncates_and_each_row_of_a_message_is_a_change(lake):
    assert sorted(live(lake, "inv_silver", "sku", "wh", "qty", "note")) == [("a", 1, 11, ""), ("b", 1, 31, "NULL")]
    assert {(row["sku"], row["wh"]) for row in rows(lake, "inv_silver") if row["is_deleted"]} == {("a", 2), ("old", 1)}
    counts = reader.query(
        lake,
        "SELECT operation_type o, count(*) n FROM cdc_changes_bronze "
        "WHERE table_name = 'inv' AND len(_quality_flags) = 0 GROUP BY 1",
    )
    assert dict(zip(counts.o, counts.n, strict=True)) == {"INSERT": 4, "UPDATE": 2, "DELETE": 1, "TRUNCATE": 1}
    aside = reader.query(lake, "SELECT reasons[1] r, count(*) n FROM cdc_changes_bronze_quarantine GROUP BY 1")
    assert dict(zip(aside.r, aside.n, strict=True)) == {"schema_change": 2, "empty_message": 2}


def test_several_runs_reverse_order_and_rebuild_give_the_same_tables(lake, engine, shared, tmp_path):
    other = lake_of(engine, shared, tmp_path / "lake", tmp_path / "landing")
    for part in ("landing_run2", "landing"):
        deliver(shared, tmp_path / "landing", part)
        run_tables(other)
    assert_same(other, lake)
    run_tables(other.model_copy(update={"full": True}))
    assert_same(other, lake)


def test_the_other_engine_makes_the_same_tables(lake, native, jvm, shared, tmp_path):
    other = lake_of(jvm if lake.spark_master == native else native, shared, tmp_path / "lake", tmp_path / "landing")
    for part in ("landing", "landing_run2"):
        deliver(shared, tmp_path / "landing", part)
    run_tables(other)
    assert_same(other, lake, flags=True)
