"""Replicas and the history of users, compared with a model of their source, for every message format."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from lake import rows, run_tables
from source_model import SHAPES, Source

from lakehouse_lib import config
from lakehouse_lib.config import Settings

EXAMPLES = int(os.environ.get("LAKEHOUSE_TEST_ROUNDS", "1"))
HISTORIES = int(os.environ.get("LAKEHOUSE_TEST_HISTORIES", "25"))
"""In each of the twelve source tables of an example."""
KEYS, STEPS = 8, 40
TABLES = ("cdc_changes_bronze", "users_history_silver", *(f"{shape.name}_silver" for shape in SHAPES))


def lake_of(engine: str, base: Path, landing: Path) -> Settings:
    replicas = [{"source_table": shape.name, "target": f"{shape.name}_silver", "keys": ["id"]} for shape in SHAPES]
    return config.load({
        "lakehouse_base_path": str(base), "landing_path": str(landing), "spark_master": engine, "sample": {"rows": 0},
        "tables": ",".join(TABLES), "cdc": {"replicas": replicas}})  # fmt: skip


def deliver(folder: Path, name: str, messages: list[dict]) -> None:
    folder.joinpath("cdc_changes").mkdir(parents=True, exist_ok=True)
    folder.joinpath("cdc_changes", name).write_text("".join(f"{json.dumps(message)}\n" for message in messages))


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_replicas_and_history_match_the_source(engine, tmp_path, seed):
    random = Random(seed)
    sources = {shape.name: Source(random, "id", HISTORIES, shape.clock, shape.positions) for shape in SHAPES}
    message_shape = SHAPES[seed % len(SHAPES)]
    users = Source(
        random,
        "user_id",
        HISTORIES,
        "coarse" if message_shape.clock == "coarse" else "forward",
        message_shape.positions,
    )
    messages = []
    for shape in SHAPES:
        sources[shape.name].live(KEYS, STEPS)
        messages += shape.write(shape.name, sources[shape.name], random)
    users.live(KEYS, STEPS)
    messages += message_shape.write("users", users, random)
    lakes = [lake_of(engine, tmp_path / name, tmp_path / f"landing_{name}") for name in ("once", "parts")]
    deliver(tmp_path / "landing_once", "all.json", messages)
    run_tables(lakes[0])
    again = random.sample(messages, len(messages) // 10)
    random.shuffle(messages)
    cuts = sorted(random.sample(range(len(messages)), 2))
    for number, part in enumerate((messages[: cuts[0]], messages[cuts[0] : cuts[1]], messages[cuts[1] :] + again)):
        deliver(tmp_path / "landing_parts", f"{9 - number}.json", part)
        run_tables(lakes[1])
    for lake in lakes:
        for name, source in sources.items():
            assert live(lake, name) == Counter(map(repr_of, source.rows.values())), name
            assert {row["id"] for row in rows(lake, f"{name}_silver")} == source.known, name
        for at, held in random.sample(sorted(users.held.items()), min(5, len(users.held))):
            assert users_at(lake, at) == held
    assert_same_silver(*lakes)
    run_tables(lakes[1].model_copy(update={"full": True}))
    assert_same_silver(*lakes)


def assert_same_silver(left: Settings, right: Settings) -> None:
    """Bronze contains redelivered records twice."""
    for name in TABLES[1:]:
        assert rows(left, name) == rows(right, name), name


def live(lake: Settings, name: str) -> Counter:
    current = [row for row in rows(lake, f"{name}_silver") if not row["is_deleted"]]
    return Counter(repr_of({column: row[column] for column in ("id", "n", "price", "text", "body")}) for row in current)


def repr_of(row: dict) -> str:
    return json.dumps(row, sort_keys=True)


def users_at(lake: Settings, at: int) -> dict[str, dict]:
    """The users at a moment, according to the history."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    users = {}
    for row in rows(lake, "users_history_silver"):
        is_then = row["valid_from"] <= moment and (row["valid_to"] is None or moment < row["valid_to"])
        if is_then and row["operation_type"] not in ("DELETE", "TRUNCATE"):
            more = json.loads(row["attributes"] or "{}")
            users[row["user_id"]] = {"user_id": row["user_id"]} | more
    return users
