"""Change messages of Debezium, Maxwell, Canal and MongoDB as flat changes.

`flat` gives every message the fields of `FIELDS`: one change, several (``_changes``), or none (``_control`` says
what kind of message it is). A message of an unknown kind is returned unchanged.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jiter

from lakehouse_lib.intake import connect_types, positions
from lakehouse_lib.intake.connect_types import is_unavailable
from lakehouse_lib.intake.extended_json import plain
from lakehouse_lib.intake.positions import Position
from lakehouse_lib.intake.records import json_text

FIELDS = ("cdc_id", "table_name", "source_database", "operation_type", "primary_key", "before_values", "after_values",
          "change_timestamp", "timestamp", "sequence", "source_system")  # fmt: skip
"""Fields of a flat change that a source may write itself. ``timestamp`` is an alias of ``change_timestamp``."""

INTERNAL = ("_envelope", "_control", "_log", "_position", "_snapshot", "_before", "_after", "_unchanged", "_types",
            "_changes")  # fmt: skip
"""Fields that `flat` adds: the format; the kind of a message that changes no row; the log and the position in it, as
text that sorts; ``true`` for a snapshot row; the rows with values as `coded`; columns that a change leaves unchanged
(JSON array, with `OTHERS` and `ABSENT`); column types from the message's schema (JSON object)."""

OTHERS, ABSENT = "*", "?"
"""Markers in ``_unchanged`` for the columns that a change does not name: with the first it leaves them unchanged, with
the second ``cdc.absent`` decides."""

UNKNOWN = "unknown_envelope"
KNOWN = "Debezium, whole or unwrapped, Maxwell, Canal, or flat rows with operation_type"

NESTED = "nested_update"
"""An update of part of a field, in a message without the whole document."""

OPERATIONS = {
    **dict.fromkeys(("c", "r", "i", "insert", "create", "bootstrap-insert"), "INSERT"),
    **dict.fromkeys(("u", "update"), "UPDATE"),
    **dict.fromkeys(("d", "delete"), "DELETE"),
    **dict.fromkeys(("t", "truncate", "table-truncate"), "TRUNCATE"),
}
_AFTER_ALL = 2**62
_STRICT: dict[str, Any] = {
    "catch_duplicate_keys": True,
    "allow_inf_nan": False,
    "float_mode": "lossless-float",
    "cache_mode": "keys",
}


def flat(message: dict[str, Any] | None, path: str = "") -> dict[str, Any]:
    """Return a message as a flat change, keeping the fields that the envelope does not define.

    ``path`` is the path of its file below the feed's folder: if an unwrapped message does not name its table, a folder
    named like the topic does.
    """
    if message is None:
        return _control("tombstone")
    message = _without_internal(message)
    try:
        return _recognised(message, path)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # a malformed part of an envelope
        return message


def _without_internal(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the fields that only `flat` may add."""
    if message.keys().isdisjoint(INTERNAL):
        return message
    return {name: value for name, value in message.items() if name not in INTERNAL}


def beside(message: dict[str, Any] | None, path: str = "") -> dict[str, Any]:
    """Return `flat` plus the message's own fields, for a feed whose parameters select fields."""
    return (message or {}) | flat(message, path)


def _recognised(message: dict[str, Any], path: str) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if "payload" in message and "op" not in message and message.keys() <= {"payload", "schema"}:
        schema, message = _object(message.get("schema")) or {}, message["payload"]
        if message is None:
            return _control("tombstone")
        message = _without_internal(_object(message) or {"payload": message})
    if "__op" in message or "__deleted" in message:
        return _unwrapped(message, schema, path)
    if "op" in message and ("before" in message or "after" in message or "source" in message):
        return _debezium(message, schema)
    if "isDdl" in message or ("data" in message and "pkNames" in message):
        return _canal(message)
    if "type" in message and "database" in message and ("table" in message or "data" not in message):
        return _maxwell(message)
    if "operation_type" in message:
        return _flat(message)
    return _control(control) if (control := _control_kind(message)) else message


def _control(kind: str) -> dict[str, Any]:
    return {"_control": kind}


def _control_kind(message: dict[str, Any]) -> str:
    names = message.keys()
    if names & {"ddl", "tableChanges"} or ("databaseName" in names and "source" in names):
        return "schema_change"
    if message.get("status") in ("BEGIN", "END") and "id" in names:
        return "transaction_marker"
    return "heartbeat" if names and names <= {"ts_ms", "ts_us", "ts_ns", "serverName"} else ""


# Debezium --------------------------------------------------------------------


def _debezium(message: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if message["op"] == "m":
        return _control("logical_message")
    source = _object(message.get("source")) or {}
    schemas = {field["field"]: field for field in schema.get("fields") or () if "field" in field}
    before, after = (_row(message.get(name), schemas.get(name)) for name in ("before", "after"))
    key = None
    unset: dict[str, Any] = {}
    if _text(source.get("connector")) == "mongodb" or "collection" in source:
        before, after = plain(before), plain(after)
        key = plain(_object(message.get("filter")))
        if after is None and message["op"] == "u":
            after, unset = _patch(message)
    change = _of_source(source, message["op"], message.get("ts_ms"))
    types = connect_types.column_types(schemas.get("after") or schemas.get("before") or {}) if schemas else {}
    return change | _values(before, after, key, types) | unset


def _of_source(source: dict[str, Any], operation: Any, message_time: Any) -> dict[str, Any]:
    """Return the table, time and position from the ``source`` block of a Debezium message."""
    snapshot = str(source.get("snapshot") or "false").lower()
    source_time = source.get("ts_ms")
    if source_time and str(source.get("ts_us") or "")[:-3] == str(source_time):
        source_time = source["ts_us"]
    is_snapshot = operation == "r" or snapshot not in ("false", "incremental")
    position = _position(source, is_snapshot)
    names = [_text(source.get(name)) for name in ("db", "schema")]
    return {
        "_envelope": "debezium",
        "operation_type": _operation(operation),
        "table_name": _text(source.get("table")) or _text(source.get("collection")),
        "source_database": ".".join(name for name in names if name) or None,
        "change_timestamp": _text(source_time if source_time and _is_after_zero(source_time) else message_time),
        "source_system": _text(source.get("name")) or _text(source.get("connector")),
        "_snapshot": "true" if is_snapshot else None,
    } | _position_fields(position)


def _position(source: dict[str, Any], is_snapshot: bool) -> Position | None:
    """Return the position in the source's log, which is qualified by the connector's logical server name."""
    get = source.get
    committed = [*_list(get("sequence")), None][0]  # PostgreSQL: positions of the last commit and of the change
    position = (
        positions.binlog(get("file"), get("pos"), get("row"))
        or positions.hexadecimal(get("commit_lsn"), get("change_lsn"), get("event_serial_no"))
        or positions.postgres(get("lsn"), committed, is_snapshot)
        or positions.oracle(get("scn"), get("commit_scn"), get("rs_id"), get("ssn"), is_snapshot)
        or _of_mongo(source)
    )
    name = _text(get("name"))
    return position._replace(log=f"{position.log} of {name}") if position and name else position


def _of_mongo(source: dict[str, Any]) -> Position | None:
    millis, number = source.get("ts_ms"), source.get("ord")
    if millis is None or number is None or int(number) < 0:
        return None
    return positions.of("oplog", int(millis) // 1000, number)


def _patch(message: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the fields that a MongoDB update names (null for a removed one), or the whole document if it is
    replaced."""
    update = _object(message.get("updateDescription"))
    if update is not None:
        if update.get("truncatedArrays"):
            return None, _control(NESTED)
        changed = plain(_object(update.get("updatedFields")) or {})
        removed = update.get("removedFields") or []
    else:
        patch = _object(message.get("patch"))
        if patch is None:
            return None, {}
        if "diff" in patch and "$v" in patch:
            return None, _control(NESTED)
        if not any(name.startswith("$") for name in patch):
            return plain(patch), {}
        changed = plain(_object(patch.get("$set")) or {})
        removed = list(_object(patch.get("$unset")) or {})
    changed |= dict.fromkeys(map(str, removed))
    if any("." in name for name in changed):
        return None, _control(NESTED)
    return changed, {"_unchanged": [OTHERS]}


def _unwrapped(message: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a row from Debezium's ExtractNewRecordState, whose extra fields begin with two underscores."""
    extras = {name: value for name, value in message.items() if _UNWRAPPED.fullmatch(name)}
    source = {name.removeprefix("__"): value for name, value in extras.items()}
    source |= {name.removeprefix("__source_"): value for name, value in extras.items() if name.startswith("__source_")}
    row = _row({name: value for name, value in message.items() if name not in extras}, schema)
    operation = source.get("op") or "u"
    deleted = str(source.get("deleted")).lower() == "true" or operation == "d"
    change = _of_source(source, "d" if deleted else operation, message.get("__ts_ms"))
    if not change["table_name"]:
        *database, change["table_name"] = _of_topic(path)
        change["source_database"] = change["source_database"] or (".".join(database) or None)
    types = {name: kind for name, kind in connect_types.column_types(schema).items() if name not in extras}
    return (
        change | _values(row if deleted else None, None if deleted else row, None, types) | {"_envelope": "unwrapped"}
    )


_UNWRAPPED = re.compile(
    "__(source_.+|op|deleted|version|connector|name|ts_(ms|us|ns)|snapshot|db|schema|table|collection|sequence|tx_?Id|lsn|xmin"
    "|server_id|gtid|file|pos|row|thread|query|scn|commit_scn|rs_id|ssn|redo_thread|change_lsn|commit_lsn"
    "|event_serial_no|ord|lsid|txnNumber|wallTime|rs|transaction.*)"
)
"""Fields that the transformation adds to a row; other names with two underscores belong to the source."""


def _of_topic(path: str) -> list[Any]:
    """Return the database and table from a folder named like the topic: ``server.database.table``."""
    folders = [folder for folder in path.split("/")[:-1] if "=" not in folder and not folder.isdigit()]
    parts = folders[-1].split(".") if folders else []
    return [*parts[1:-1], parts[-1]] if parts else [None]


# Maxwell, Canal, flat ---------------------------------------------------------


def _maxwell(message: dict[str, Any]) -> dict[str, Any]:
    kind = str(message["type"]).lower()
    operation = OPERATIONS.get(kind)
    if kind in ("bootstrap-start", "bootstrap-complete"):
        return _control("bootstrap_marker")
    if operation is None and ("-" in kind or "table" not in message):
        return _control("schema_change")
    data, old = _row(message.get("data"), None), _row(message.get("old"), None)
    log_position = None
    # The last row of a transaction has no offset.
    last, offset = int(str(message.get("commit")).lower() == "true"), message.get("xoffset")
    if ":" in str(message.get("position")):
        row = _AFTER_ALL if last and offset is None else offset
        file, position = str(message["position"]).rsplit(":", 1)
        log_position = positions.binlog(file, position, row)
    elif message.get("xid") is not None:
        # Transaction ids can restart, so the time comes first.
        log_position = positions.of("transactions", message.get("ts"), message["xid"], last, offset or 0)
    before = _before(operation, data, old)
    return {
        "_envelope": "maxwell", "operation_type": operation or kind, "table_name": _text(message.get("table")),
        "source_database": _text(message["database"]), "change_timestamp": _text(message.get("ts")),
        "source_system": _text(message["database"]), "_snapshot": "true" if kind == "bootstrap-insert" else None,
    } | _position_fields(log_position) | _values(before, None if operation == "DELETE" else data,
                                                _key(data, message.get("primary_key_columns")), {})  # fmt: skip


def _canal(message: dict[str, Any]) -> dict[str, Any]:
    operation, is_ddl = _operation(message.get("type")), str(message.get("isDdl")).lower() == "true"
    if is_ddl and operation != "TRUNCATE":
        return _control("schema_change")
    rows, old = _list(message.get("data")), _list(message.get("old"))
    if not rows and not is_ddl and operation != "TRUNCATE":
        return _control("empty_message")
    types = {
        name: spark_type
        for name, mysql_type in (_object(message.get("mysqlType")) or {}).items()
        if (spark_type := _mysql_type(str(mysql_type)))
    }
    # Messages of one batch share an id: the changes in them are in the order in which they were written.
    position = positions.of("canal", message.get("es"), message.get("id"))
    changes = []
    for number, row in enumerate(rows or [None]):
        row = _row(row, None)
        before = _before(operation, row, _row(old[number], None) if number < len(old) else None)
        after, key = None if operation == "DELETE" else row, _key(row, message.get("pkNames"))
        changes.append({
            "_envelope": "canal", "operation_type": operation, "table_name": _text(message.get("table")),
            "source_database": _text(message.get("database")), "source_system": _text(message.get("database")),
            "change_timestamp": _text(message.get("es") or message.get("ts")),
        } | _position_fields(position) | _values(before, after, key, types))  # fmt: skip
    return changes[0] if len(changes) == 1 else {"_changes": [_as_text(change) for change in changes]}


def _before(operation: str | None, row: Any, old: Any) -> Any:
    """Return the row before a change, from the row in the message and the values that an update replaced."""
    if operation == "DELETE":
        return row
    return {**row, **old} if isinstance(old, dict) and isinstance(row, dict) else None


def _mysql_type(text: str) -> str:
    kind, _, rest = text.lower().partition("(")
    words = text.lower().split()
    if not kind.split():
        return ""
    if kind.split()[0] in ("tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year"):
        return "decimal(20,0)" if kind.startswith("bigint") and "unsigned" in words else "bigint"
    if kind.split()[0] in ("decimal", "numeric"):
        precision, _, scale = rest.partition(")")[0].partition(",")
        return connect_types.decimal_type(precision or 10, scale or 0)
    return {"double": "double", "float": "double", "date": "date", "datetime": "timestamp",
            "timestamp": "timestamp"}.get(kind.split()[0], "string")  # fmt: skip


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(message.get("operation_type"))
    before, after = (_row(message.get(name), None) for name in ("before_values", "after_values"))
    values = _values(before, after, None, {}) | {"primary_key": message.get("primary_key")}
    if operation == "UPDATE":
        values["_unchanged"] = [*(values["_unchanged"] or ()), ABSENT]
    return message | values | _position_fields(positions.sequence(message.get("sequence"))) | {
        "_envelope": "flat", "operation_type": operation}  # fmt: skip


# Parts -----------------------------------------------------------------------


def _operation(word: Any) -> str | None:
    """Return the operation's name in this library; an unknown word is returned unchanged."""
    return None if word is None else OPERATIONS.get(str(word).strip().lower(), str(word))


def _position_fields(position: Position | None) -> dict[str, Any]:
    if position is None:
        return {"sequence": None}
    return {"sequence": position.shown, "_log": position.log, "_position": position.order}


def _values(before: Any, after: Any, key: Any, types: dict[str, str]) -> dict[str, Any]:
    """Return the rows before and after without the values that the source did not send, and the names of those
    columns."""
    unchanged = []
    if isinstance(after, dict):
        unchanged = [name for name, value in after.items() if is_unavailable(value)]
        after = {name: value for name, value in after.items() if name not in unchanged} if unchanged else after
    if isinstance(before, dict) and any(map(is_unavailable, before.values())):
        before = {name: value for name, value in before.items() if not is_unavailable(value)}
    return {"before_values": before, "after_values": after, "primary_key": key, "_before": coded(before),
            "_after": coded(after), "_unchanged": unchanged or None, "_types": types or None}  # fmt: skip


def coded(row: Any) -> str | None:
    """Return a row as a JSON object of texts that keep digits and kinds: ``n`` before a number, ``s`` before a text,
    ``b`` before a boolean, ``j`` before an object or an array."""
    if not isinstance(row, dict):
        return None
    return json.dumps({name: _coded(value) for name, value in row.items()}, ensure_ascii=False)


def _coded(value: Any) -> str | None:
    kind = value.__class__
    if kind is str:
        return f"s{value}"
    if value is None:
        return None
    if kind is dict or kind is list:
        return f"j{json_text(value)}"
    return f"b{json_text(value)}" if kind is bool else f"n{value}"


def _row(value: Any, schema: dict[str, Any] | None) -> Any:
    """Return a row, decoded by its schema; a value that is not an object is returned unchanged."""
    row = _object(value)
    if row is None:
        return value
    return connect_types.struct(row, schema) if schema else row


def _key(row: Any, names: Any) -> dict[str, Any] | None:
    if not isinstance(row, dict):
        return None
    key = {name: row[name] for name in map(str, _list(names)) if name in row}
    return key or None


def _object(value: Any) -> dict[str, Any] | None:
    parsed = _parsed(value)
    return parsed if isinstance(parsed, dict) else None


def _list(value: Any) -> list[Any]:
    parsed = _parsed(value)
    return parsed if isinstance(parsed, list) else []


def _parsed(value: Any) -> Any:
    """Return a value, parsed if it is the JSON text of an object or array."""
    if value.__class__ is not str or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return jiter.from_json(value.encode(), **_STRICT)
    except ValueError:
        return value


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _is_after_zero(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False


def _as_text(change: dict[str, Any]) -> dict[str, str | None]:
    """Return a change whose nested values are JSON text."""
    return {
        name: value if value is None or value.__class__ is str else json_text(value) for name, value in change.items()
    }
