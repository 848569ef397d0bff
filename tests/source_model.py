"""A model of a source database: random transactions on a table, and the messages for them.

A replica must hold what the model holds at the end, and the history must show what it held at any moment. The model
does not depend on how the library works.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

PLACEHOLDER = "__debezium_unavailable_value"
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)
Row = dict[str, Any]


@dataclass
class Change:
    """A change in the log."""

    op: str
    """insert, update, delete, truncate or read (of a snapshot)."""
    place: int
    at: int
    """Milliseconds."""
    before: Row | None = None
    after: Row | None = None
    changed: tuple[str, ...] = ()
    """Columns that an update set."""
    incremental: bool = False
    """Whether a read was of an incremental snapshot, which has no position."""


@dataclass
class Source:
    """A table: its rows by key, everything that happened to it, and what it held after each change."""

    random: Random
    key: str = "id"
    histories: int = 1
    """Groups of keys; each lives a life of its own, and a key changes within its group."""
    clock: str = "forward"
    """``forward``: each change is later; ``coarse``: never earlier; ``loose``: clocks step back."""
    positions: bool = True
    """Whether every change has a position, so that the time of a snapshot's row does not matter."""
    rows: dict[str, Row] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    held: dict[int, dict[str, Row]] = field(default_factory=dict)
    """What the table held at some moments."""
    known: set[str] = field(default_factory=set)
    now: int = START
    place: int = 0

    def live(self, keys: int, steps: int) -> None:
        """Apply random steps to the table, with the given number of steps and keys in each history."""
        for _ in range(steps * self.histories):
            history, everywhere = self.random.randrange(self.histories), self.random.random() * self.histories
            choice, free = self.random.random(), f"h{history}k{self.random.randrange(keys)}"
            if everywhere < 0.01 and self.rows:
                self._write("truncate", None, None)
                self.rows.clear()
            elif everywhere < 0.04 and self.log and self.clock != "coarse":
                self._snapshot()
            elif free not in self.rows:
                self._put("insert", None, {self.key: free, **self._values()})
            elif choice < 0.2:
                self._write("delete", self.rows.pop(free), None)
            elif choice < 0.3:
                other = f"h{history}k{self.random.randrange(keys)}"
                if other not in self.rows:
                    old = self.rows.pop(free)
                    self._put("update", old, {**old, self.key: other, **self._some(old)})
            else:
                self._put("update", self.rows[free], {**self.rows[free], **self._some(self.rows[free])})

    def _values(self) -> Row:
        pick = self.random.choice
        return {"n": pick([0, 7, -3, 2**53 + 1]), "price": pick([1, 19]), "text": pick(["", "a", "ü|'\"", None]),
                "body": pick(["long", "longer", None])}  # fmt: skip

    def _some(self, row: Row) -> Row:
        fresh = self._values()
        return {name: fresh[name] for name in fresh if self.random.random() < 0.4 and fresh[name] != row[name]}

    def _put(self, op: str, before: Row | None, after: Row) -> None:
        self.rows[after[self.key]] = after
        self._write(op, before, after)

    def _snapshot(self) -> None:
        """Read all rows: at the position where the snapshot began, and long after; or, as an incremental snapshot,
        without a position."""
        place, incremental = self.place, self.clock == "forward" and self.random.random() < 0.5
        for row in list(self.rows.values()):
            if incremental or not self.positions:
                self._write("read", None, row, incremental)
            else:
                late = self.now + self.random.randrange(3_600_000)
                self.log.append(Change("read", place, late, None, dict(row)))

    def _write(self, op: str, before: Row | None, after: Row | None, incremental: bool = False) -> None:
        step = {"forward": (1, 5000), "coarse": (0, 2), "loose": (-60_000, 90_000)}[self.clock]
        self.now += self.random.randrange(*step) * (1000 if self.clock == "coarse" else 1)
        self.place += 1
        changed = tuple(n for n in after if before[n] != after[n]) if before and after else ()
        self.log.append(
            Change(op, self.place, self.now, before and dict(before), after and dict(after), changed, incremental)
        )
        self.known |= {row[self.key] for row in (before, after) if row}
        if self.now in self.held or self.random.random() < 0.02:
            self.held[self.now] = {key: dict(row) for key, row in (self.rows if op != "truncate" else {}).items()}


Writer = Callable[[str, Source, Random], list[dict[str, Any]]]


def debezium(place: Callable[[Change], dict[str, Any]], placeholders: bool = False) -> Writer:
    """Messages of Debezium; ``place`` gives the fields of the position."""

    def write(table: str, source: Source, random: Random) -> list[dict[str, Any]]:
        return [
            _debezium(table, change, place(change), placeholders and random.random() < 0.5) for change in source.log
        ]

    return write


def _debezium(table: str, change: Change, place: dict[str, Any], placeholders: bool) -> dict[str, Any]:
    after = change.after
    if placeholders and change.op == "update" and len(change.changed) < len(after) - 1:
        after = {n: PLACEHOLDER if n == "body" and n not in change.changed else v for n, v in after.items()}
    snapshot = "false" if change.op != "read" else "incremental" if change.incremental else "true"
    source = {"connector": "x", "db": "shop", "table": table, "ts_ms": change.at, "snapshot": snapshot}
    code = {"insert": "c", "update": "u", "delete": "d", "truncate": "t", "read": "r"}[change.op]
    return {"op": code, "before": change.before, "after": after, "ts_ms": change.at + 5,
            "source": source | ({} if change.incremental else place)}  # fmt: skip


def binlog(change: Change) -> dict[str, Any]:
    """Two changes in an event, twenty in a file; the number of the file grows past its padding."""
    file, rest = divmod(change.place, 20)
    return {"file": f"bin.{999_999 + file:06d}", "pos": 100 + rest // 2 * 9, "row": rest % 2}


def lsn(change: Change) -> dict[str, Any]:
    return {"lsn": 95 + change.place}


def sql_server(change: Change) -> dict[str, Any]:
    commit, number = divmod(change.place, 3)
    return {
        "commit_lsn": f"00000027:{0xFFC + commit:08x}:0003",
        "change_lsn": f"00000027:{0xFF + number:08x}:0001",
        "event_serial_no": 1,
    }


def scn(change: Change) -> dict[str, Any]:
    return {"scn": str(10**19 - 5 + change.place)}


def nowhere(change: Change) -> dict[str, Any]:
    return {}


def sometimes(change: Change) -> dict[str, Any]:
    return lsn(change) if change.place % 3 else {}


def maxwell(table: str, source: Source, random: Random) -> list[dict[str, Any]]:
    """Messages of Maxwell, three changes per transaction; the last has the commit flag and no offset."""
    messages = []
    for change in source.log:
        number, rest = divmod(change.place, 3)
        message = {"database": "shop", "table": table, "ts": change.at // 1000, "xid": 98 + number,
                   "primary_key_columns": [source.key]}  # fmt: skip
        message |= {"commit": True} if rest == 2 or change is source.log[-1] else {"xoffset": rest}
        if change.op == "truncate":
            messages.append(message | {"type": "table-truncate"})
            continue
        old = {name: change.before[name] for name in change.changed} if change.op == "update" else None
        messages.append(
            message | {"type": change.op, "data": change.after or change.before} | ({"old": old} if old else {})
        )
    return messages


def canal(table: str, source: Source, random: Random) -> list[dict[str, Any]]:
    """Messages of Canal: all values are text, and several changes of one kind may be one message."""
    text = lambda row: row and {n: None if v is None else str(v) for n, v in row.items()}  # noqa: E731
    messages: list[dict[str, Any]] = []
    for number, change in enumerate(source.log):
        message = {"database": "shop", "table": table, "es": change.at, "ts": change.at + 1, "id": 98 + number,
                   "isDdl": change.op == "truncate", "type": change.op.upper(), "pkNames": [source.key],
                   "mysqlType": {source.key: "varchar(9)", "n": "bigint(20)", "price": "int(11)", "text": "text",
                                 "body": "text"}}  # fmt: skip
        if change.op == "truncate":
            messages.append(message | {"data": None, "old": None, "sql": f"TRUNCATE TABLE {table}"})
            continue
        old = text({name: change.before[name] for name in change.changed}) if change.op == "update" else None
        row = text(change.after or change.before)
        last = messages[-1] if messages else None
        if last and last["type"] == message["type"] and last["es"] == message["es"] and last["data"]:
            last["data"].append(row)
            last["old"].append(old)
        else:
            messages.append(message | {"data": [row], "old": [old]})
    return messages


def flat(sequence: Callable[[Change], Any] | None) -> Writer:
    """Flat rows, in which an update leaves out what it did not set; sometimes it also lacks the row before."""

    def write(table: str, source: Source, random: Random) -> list[dict[str, Any]]:
        messages = []
        for change in source.log:
            moved = source.key in change.changed
            after = change.after
            if change.op == "update" and random.random() < 0.7:
                after = {n: v for n, v in after.items() if n in change.changed or n == source.key}
            before = change.before if not moved or random.random() < 0.5 else {source.key: change.before[source.key]}
            row = {"table_name": table, "operation_type": "insert" if change.op == "read" else change.op,
                   "before_values": json.dumps(before) if before and random.random() < 0.5 else before,
                   "after_values": after, "timestamp": change.at}  # fmt: skip
            messages.append(row | ({"sequence": sequence(change)} if sequence else {}))
        return messages

    return write


@dataclass(frozen=True)
class Shape:
    """A message format for the changes of a table."""

    name: str
    write: Writer
    clock: str
    positions: bool = True


SHAPES = (
    Shape("binlog", debezium(binlog, placeholders=True), "loose"),
    Shape("lsn", debezium(lsn, placeholders=True), "loose"),
    Shape("sql_server", debezium(sql_server), "loose"),
    Shape("scn", debezium(scn), "loose"),
    Shape("nowhere", debezium(nowhere, placeholders=True), "forward", positions=False),
    Shape("sometimes", debezium(sometimes, placeholders=True), "forward", positions=False),
    Shape("maxwell", maxwell, "coarse"),
    Shape("canal", canal, "coarse"),
    Shape("numbered", flat(lambda change: str(10**25 + change.place)), "forward"),
    Shape("fractions", flat(lambda change: float(f"{9 + change.place}.5")), "forward"),
    Shape("plain", flat(None), "forward", positions=False),
)
