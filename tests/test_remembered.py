"""Opened tables that are remembered until their logs go on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lakehouse_lib.storage import delta, remembered

STEPS = ("append", "overwrite", "restore", "checkpoint", "remove", "replace")


def write(path: Path, number: int, mode: str = "append") -> None:
    write_deltalake(str(path), pa.table({"n": [number]}), mode=mode)


def rows(path: Path) -> list[int] | None:
    """What readers see."""
    opened = delta.open_table(str(path))
    return None if opened is None else sorted(delta.dataset(opened).to_table()["n"].to_pylist())


def test_table_is_opened_again_only_when_its_log_has_gone_on(tmp_path):
    write(tmp_path / "t", 1)
    first = delta.open_table(str(tmp_path / "t"))
    assert delta.open_table(str(tmp_path / "t")) is first
    assert delta.dataset(first) is delta.dataset(first)
    write(tmp_path / "t", 2)
    assert delta.open_table(str(tmp_path / "t")) is not first
    assert rows(tmp_path / "t") == [1, 2]
    assert first.version() == 0  # whoever still reads it sees the version that was opened


def test_dataset_follows_a_table_that_its_owner_changes(tmp_path):
    write(tmp_path / "t", 1)
    own = DeltaTable(str(tmp_path / "t"))
    assert delta.dataset(own).count_rows() == 1
    write_deltalake(own, pa.table({"n": [2]}), mode="append")
    assert delta.dataset(own).count_rows() == 2


def test_only_a_limited_number_of_tables_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "LIMIT", 3)
    remembered._known.clear()
    for number in range(5):
        write(tmp_path / str(number), number)
        assert rows(tmp_path / str(number)) == [number]
    assert [Path(path).name for path in remembered._known] == ["2", "3", "4"]


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_readers_see_what_a_newly_opened_table_has(steps):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t")
        for number, step in enumerate(steps):
            opened = DeltaTable(str(path)) if path.exists() else None
            if step in ("append", "overwrite"):
                write(path, number, step)
            elif step == "restore" and opened and opened.version():
                opened.restore(0)
            elif step == "checkpoint" and opened:
                opened.create_checkpoint()
            elif step in ("remove", "replace"):
                shutil.rmtree(path, ignore_errors=True)
                if step == "replace":
                    write(path, number)
            fresh = DeltaTable(str(path)) if path.exists() else None
            assert rows(path) == (fresh and sorted(fresh.to_pyarrow_table()["n"].to_pylist()))
