"""Lineage of columns: what each column of a frame is made from, read from its Spark Connect plan.

The plan is what the client sends to Spark, as protocol messages. It is walked once, and every
expression stands for the source columns that its value is made from and those that decide which
value it is. Sources are written ``table.column``; ``table.*`` stands for how many rows there are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.lineage import lineage as sql_lineage

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.intake.records import PICKED
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

Refs = frozenset[str]
NONE: Refs = frozenset()


@dataclass(frozen=True)
class Value:
    """What a value is made from (``direct``), and what decides which value it is (``indirect``).

    Arrays have the fields of their elements; ``length`` is what the number of elements follows
    from. The keys of a map with a ``source`` are columns of that source.
    """

    direct: Refs = NONE
    indirect: Refs = NONE
    fields: Mapping[str, Value] | None = None
    length: Refs | None = None
    source: str = ""

    @property
    def refs(self) -> Refs:
        """Everything that it depends on."""
        return self.direct | self.indirect

    def get(self, name: str) -> Value:
        """A field of a struct, or the value under a key."""
        if self.source:
            return Value(frozenset({f"{self.source}.{name}"}))
        if self.fields and name in self.fields:
            inner = self.fields[name]
            return inner.because(self.indirect)
        return Value(self.direct, self.indirect)

    def because(self, refs: Refs) -> Value:
        """The same value, chosen by something."""
        return replace(self, indirect=self.indirect | refs)


@dataclass
class Frame:
    """The columns of a relation; ``rows`` is what its rows come from, ``by`` what chose and grouped them."""

    columns: dict[str, Value] = field(default_factory=dict)
    rows: Refs = NONE
    by: Refs = NONE


@dataclass(frozen=True)
class Lineage:
    """What the columns of a table are made from: for each column, and each path into one, sorted
    names of source columns; ``by`` is what chose and grouped the rows."""

    direct: dict[str, list[str]]
    indirect: dict[str, list[str]]
    by: list[str]


def of(
    settings: Settings, target: str, frame: DataFrame, feed: tuple[str, DataFrame] | None = None, by: Iterable[str] = ()
) -> Lineage | None:
    """What the columns of a frame that becomes a table are made from; None, with a word in the log,
    where its plan holds something that cannot be told.

    ``feed`` names the frame of a feed's records, whose fields count as columns of ``landing/<feed>``;
    ``by`` are columns of the frame by which its rows are chosen when it is written.
    """
    try:
        known = {}
        if feed:
            name, records = feed
            known[_plan(records).common.plan_id] = _records(name, records)
        made = _Walk(settings, known, frame.sparkSession).relation(_plan(frame))
        made.by |= _union(made.columns[name] for name in by).refs
    except Exception as error:
        log.warning("%s: lineage of its columns is not known (%s: %s)", target, type(error).__name__, error)
        return None
    return _settled(target, made)


def _plan(frame: DataFrame) -> Any:
    plan: Any = frame._plan
    return plan.plan(frame.sparkSession.client)


def _records(feed: str, records: DataFrame) -> Frame:
    source = f"landing/{feed}"
    whole = frozenset({f"{source}.*"})
    columns = {name: Value(whole) for name in records.columns}
    fields = Value(whole, source=source)
    return Frame(columns | {"record": fields, PICKED: fields}, whole)


def _settled(target: str, made: Frame) -> Lineage:
    """Paths and sources as text; where a table is made from its own rows, what those were made from."""
    flat: dict[str, Value] = {}

    def add(path: str, value: Value) -> None:
        flat[path] = value
        for name in value.fields or {}:
            add(f"{path}.{name}", value.get(name))

    for name, value in made.columns.items():
        add(name, value)
    own = f"{target}."

    def beyond(refs: Refs, seen: Refs = NONE) -> Refs:
        """References without those to the table itself, which is followed to its sources."""
        found = {ref for ref in refs if not ref.startswith(own)}
        for ref in refs - seen:
            if ref.startswith(own) and (inner := flat.get(ref.removeprefix(own))):
                counted = inner.length if inner.fields else None
                found |= beyond(inner.direct if counted is None else counted, seen | {ref})
        return frozenset(found)

    direct = {path: beyond(value.direct) for path, value in flat.items()}
    return Lineage(
        {path: sorted(refs) for path, refs in direct.items()},
        {path: sorted(beyond(value.indirect) - direct[path]) for path, value in flat.items()},
        sorted(beyond(made.by)),
    )


class _Walk:
    """One walk over a plan."""

    def __init__(self, settings: Settings, known: dict[int, Frame], spark: SparkSession):
        self.settings, self.spark = settings, spark
        self.known = known
        self.paths = {delta.table_path(settings, table): table for table in tables.declared(settings).values()}

    # Relations -------------------------------------------------------------

    def relation(self, node: Any) -> Frame:
        """The columns of a relation."""
        plan_id = node.common.plan_id
        if plan_id not in self.known:
            kind = node.WhichOneof("rel_type")
            body = getattr(node, kind)
            handle = getattr(self, f"_{kind}", None)
            # What is left over orders, cuts or passes on the rows of its input.
            made = handle(body) if handle else self.relation(body.input)
            if not plan_id:
                return made
            self.known[plan_id] = made
        found = self.known[plan_id]
        return Frame(dict(found.columns), found.rows, found.by)

    def _read(self, body: Any) -> Frame:
        if body.WhichOneof("read_type") == "named_table":
            return self._table(body.named_table.unparsed_identifier.split(".")[-1].strip("`"))
        path = body.data_source.paths[0]
        if path.endswith(".parquet"):  # a file of a table
            path = next((folder for folder in self.paths if path.startswith(f"{folder}/")), path)
        archived = path.removeprefix(f"{self.settings.layer_path('archive')}/")
        frame = self._table(self.paths[path].name if archived == path else archived.split("/")[0])
        # A change feed's own columns come from the log.
        frame.columns |= dict.fromkeys(("_change_type", "_commit_version", "_commit_timestamp"), Value())
        return frame

    def _table(self, name: str) -> Frame:
        """A table of the lakehouse: its columns are the sources."""
        table = tables.get(self.settings, name)
        opened = delta.opened(self.settings, table)
        schema = pa.schema(opened.schema().to_arrow()) if opened else table.arrow_schema()
        return Frame({f.name: _stored(f"{name}.{f.name}", f.type) for f in schema}, frozenset({f"{name}.*"}))

    def _cached_remote_relation(self, body: Any) -> Frame:
        """A frame that was settled has the columns of what it was made from."""
        return self.relation(_plan(session.origin(self.spark, body.relation_id)))

    def _local_relation(self, body: Any) -> Frame:
        from pyspark.sql.types import _parse_datatype_json_string

        text, parsed = body.schema, cast("Callable[[str], Any]", _parse_datatype_json_string)
        names = parsed(text).names if text.startswith("{") else re.findall(r"(\w+)[ :]", text)
        return Frame({name: Value() for name in names})

    def _project(self, body: Any) -> Frame:
        if not body.HasField("input"):
            return Frame({name: value for one in body.expressions for name, value in self.named(one, Frame())})
        frame = self.relation(body.input)
        columns: dict[str, Value] = {}
        rows = frame.rows
        for one in body.expressions:
            columns |= dict(self.named(one, frame))
            rows = self._rows_made(one, frame) or rows
        return Frame(columns, rows, frame.by)

    def _with_columns(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        added = {alias.name[0]: self._marked(alias.expr, frame) for alias in body.aliases}
        return Frame(frame.columns | added, frame.rows, frame.by)

    def _with_columns_renamed(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        names = dict(body.rename_columns_map) | {one.col_name: one.new_col_name for one in body.renames}
        return Frame({names.get(name, name): value for name, value in frame.columns.items()}, frame.rows, frame.by)

    def _to_df(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        return Frame(dict(zip(body.column_names, frame.columns.values(), strict=True)), frame.rows, frame.by)

    def _drop(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        gone = {*body.column_names, *(_name(one) for one in body.columns)}
        return Frame({name: v for name, v in frame.columns.items() if name not in gone}, frame.rows, frame.by)

    def _filter(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        return Frame(frame.columns, frame.rows, frame.by | self.value(body.condition, frame).refs)

    def _deduplicate(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        names = list(body.column_names) or list(frame.columns)
        kept = _union(frame.columns[n] for n in names).refs
        return Frame(frame.columns, kept, frame.by | kept)

    def _join(self, body: Any) -> Frame:
        left, right = self.relation(body.left), self.relation(body.right)
        kind = type(body).JoinType.Name(body.join_type)
        by = left.by | right.by
        columns = left.columns | {n: v for n, v in right.columns.items() if n not in body.using_columns}
        for name in body.using_columns:
            one, other = left.columns[name], right.columns[name]
            by |= one.refs | other.refs
            columns[name] = _union([one, other]) if "FULL" in kind else other if "RIGHT" in kind else one
        if body.HasField("join_condition"):
            by |= self.value(body.join_condition, Frame(left.columns | right.columns)).refs
        if "SEMI" in kind or "ANTI" in kind:
            return Frame(left.columns, left.rows, by)
        return Frame(columns, left.rows if "LEFT" in kind else left.rows | right.rows, by)

    def _set_op(self, body: Any) -> Frame:
        left, right = self.relation(body.left_input), self.relation(body.right_input)
        by = left.by | right.by
        if body.set_op_type != type(body).SetOpType.Value("SET_OP_TYPE_UNION"):
            return Frame(left.columns, left.rows, by | _union(right.columns.values()).refs)
        others = right.columns if body.by_name else dict(zip(left.columns, right.columns.values(), strict=True))
        names = dict.fromkeys([*left.columns, *others])
        both = {n: _merged([frame[n] for frame in (left.columns, others) if n in frame]) for n in names}
        return Frame(both, left.rows | right.rows, by)

    def _aggregate(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        groups = [pair for one in body.grouping_expressions for pair in self.named(one, frame)]
        grouped = _union(value for _, value in groups)
        made = [pair for one in body.aggregate_expressions for pair in self.named(one, frame)]
        rows = grouped.refs if groups else NONE  # one row, whatever there is
        return Frame(dict(groups) | dict(made), rows, frame.by | grouped.refs)

    def _with_relations(self, body: Any) -> Frame:
        given = {}
        for one in body.references:
            made = self.relation(one)
            if one.WhichOneof("rel_type") == "subquery_alias":
                given[one.subquery_alias.alias] = made
        if body.root.WhichOneof("rel_type") == "sql":
            return self._sql(body.root.sql, given)
        return self.relation(body.root)

    def _sql(self, body: Any, given: dict[str, Frame] | None = None) -> Frame:
        """A query over tables by name, or over frames that were given with it."""
        parsed = sqlglot.parse_one(body.query, dialect="spark")
        named = {cte.alias for cte in parsed.find_all(exp.CTE)}
        frames = {
            one.name: (given or {}).get(one.name) or self._table(one.name)
            for one in parsed.find_all(exp.Table)
            if one.name not in named
        }
        schema: dict[str, object] = {name: dict.fromkeys(frame.columns, "string") for name, frame in frames.items()}
        query: Any = sqlglot.optimizer.qualify.qualify(parsed.copy(), schema=schema, dialect="spark")
        names = query.named_selects
        columns = {}
        for name in names:
            leaves = [
                node
                for node in sql_lineage(name, parsed, schema=schema, dialect="spark").walk()
                if isinstance(node.expression, exp.Table)
            ]
            columns[name] = _union(
                frames[node.expression.name].columns.get(node.name.rpartition(".")[2].strip('"`'), Value())
                for node in leaves
            )
        used = _union(
            frame.columns[column.name]
            for clause in parsed.find_all(exp.Where, exp.Join, exp.Group, exp.Having)
            for column in clause.find_all(exp.Column)
            for frame in frames.values()
            if column.name in frame.columns
        )
        rows = frozenset().union(*(frame.rows for frame in frames.values()))
        return Frame(columns, rows, used.refs.union(*(frame.by for frame in frames.values())))

    # Expressions -----------------------------------------------------------

    def named(self, node: Any, frame: Frame) -> list[tuple[str, Value]]:
        """The columns that an expression of a projection makes."""
        kind = node.WhichOneof("expr_type")
        if kind == "unresolved_star":
            target = node.unresolved_star.unparsed_target.removesuffix(".*")
            if not target:
                return list(frame.columns.items())
            owner = self.attribute(target, frame)
            return [(name, owner.get(name)) for name in owner.fields or {}]
        names = list(node.alias.name) if kind == "alias" else []
        inner = node.alias.expr if kind == "alias" else node
        made = inner.unresolved_function if inner.WhichOneof("expr_type") == "unresolved_function" else None
        function = made.function_name.removesuffix("_outer") if made else ""
        if made and function in ("explode", "posexplode", "inline"):
            value = self.value(made.arguments[0], frame)
            if function == "inline":
                parts = [(name, value.get(name)) for name in value.fields or {}]
                return [(given, part) for given, (_, part) in zip(names or value.fields or {}, parts, strict=True)]
            element = replace(value, length=None)
            if function == "posexplode":
                return list(zip(names or ("pos", "col"), (Value(indirect=value.refs), element), strict=True))
            return [(name, element) for name in names or ("col",)]
        return [(names[0] if names else _name(node), self._marked(inner, frame))]

    def _rows_made(self, node: Any, frame: Frame) -> Refs | None:
        """What the rows come from where an expression makes several of one."""
        inner = node.alias.expr if node.WhichOneof("expr_type") == "alias" else node
        if inner.WhichOneof("expr_type") != "unresolved_function":
            return None
        call = inner.unresolved_function
        if call.function_name.removesuffix("_outer") not in ("explode", "posexplode", "inline"):
            return None
        value = self.value(call.arguments[0], frame)
        return value.direct if value.length is None else value.length

    def _marked(self, node: Any, frame: Frame) -> Value:
        """A column; a constant 1 or true in it is there to be counted: it stands for its rows."""
        inner = node
        while inner.WhichOneof("expr_type") == "cast":
            inner = inner.cast.expr
        if inner.WhichOneof("expr_type") == "literal":
            kind = inner.literal.WhichOneof("literal_type")
            if kind in ("boolean", "integer", "long") and getattr(inner.literal, kind) == 1:
                return Value(frame.rows)
        return self.value(node, frame)

    def value(self, node: Any, frame: Frame) -> Value:
        """What an expression is made from."""
        kind = node.WhichOneof("expr_type")
        body = getattr(node, kind)
        match kind:
            case "literal":
                return Value()
            case "unresolved_attribute":
                return self.attribute(body.unparsed_identifier, frame)
            case "unresolved_named_lambda_variable":
                return self.attribute(".".join(body.name_parts), frame)
            case "alias" | "cast":
                return self.value(body.expr, frame)
            case "sort_order":
                return self.value(body.child, frame)
            case "expression_string":
                return self._text(body.expression, frame)
            case "unresolved_star":
                return _union(frame.columns.values())
            case "window":
                order = [one.child for one in body.order_spec]
                over = [self.value(one, frame) for one in (*body.partition_spec, *order)]
                return self.value(body.window_function, frame).because(_union(over).refs)
            case "unresolved_extract_value":
                return self._part(self.value(body.child, frame), body.extraction, frame)
            case "unresolved_function" | "call_function":
                return self.call(body.function_name.lower(), list(body.arguments), frame)
        raise NotImplementedError(f"expression {kind}")

    def _part(self, owner: Value, which: Any, frame: Frame) -> Value:
        """A field of a struct, or an element of an array or a map."""
        if which.WhichOneof("expr_type") == "literal":
            return owner.get(str(getattr(which.literal, which.literal.WhichOneof("literal_type"))))
        return replace(owner, length=None).because(self.value(which, frame).refs)

    def attribute(self, text: str, frame: Frame) -> Value:
        """A column by name, or a field of one; a qualifier in front is passed over."""
        parts = _parts(text)
        while parts and parts[0] not in frame.columns:
            parts.pop(0)
        if not parts:
            raise LookupError(f"column {text} of {', '.join(frame.columns)}")
        return reduce(Value.get, parts[1:], frame.columns[parts[0]])

    def _text(self, text: str, frame: Frame) -> Value:
        parsed = sqlglot.parse_one(text, dialect="spark")
        columns = [".".join(part.name for part in column.parts) for column in parsed.find_all(exp.Column)]
        return _plain(_union(self.attribute(column, frame) for column in columns))

    def call(self, name: str, arguments: list[Any], frame: Frame) -> Value:
        """What a function's value is made from. A function that is not named here is taken to be made
        from all of its arguments."""
        if handle := _HIGHER.get(name):
            return handle(self, arguments, frame)
        values = [self.value(one, frame) for one in arguments]
        if name in ("named_struct", "struct"):
            if name == "struct":
                fields = {_name(one): value for one, value in zip(arguments, values, strict=True)}
            else:
                names = [one.literal.string for one in arguments[::2]]
                fields = dict(zip(names, values[1::2], strict=True))
            whole = _union(fields.values())
            return Value(whole.direct, whole.indirect, fields)
        if name == "count_if" or (name == "count" and not values[0].refs):
            return Value(frame.rows | values[0].direct, values[0].indirect)
        if name in ("collect_list", "collect_set"):
            return replace(values[0], length=frame.rows)
        if handle := _SHAPED.get(name):
            return handle(*values)
        return _plain(_union(values))


def _stored(ref: str, kind: pa.DataType) -> Value:
    """A column of a table; the fields of its structs are sources of their own."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return replace(_stored(ref, kind.value_type), length=frozenset({ref}))
    if pa.types.is_struct(kind):
        fields = {part.name: _stored(f"{ref}.{part.name}", part.type) for part in kind}
        return Value(_union(fields.values()).direct, NONE, fields)
    return Value(frozenset({ref}))


def _name(node: Any) -> str:
    """The name that Spark gives a column that is given none."""
    kind = node.WhichOneof("expr_type")
    if kind == "alias":
        return str(node.alias.name[0])
    if kind == "unresolved_attribute":
        return _parts(node.unresolved_attribute.unparsed_identifier)[-1]
    return _name(node.cast.expr) if kind == "cast" else str(kind)


def _parts(text: str) -> list[str]:
    """The names in a dotted one, backticks taken off."""
    return [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|([^.`]+)", text)]


def _union(values: Iterable[Value]) -> Value:
    values = list(values)
    return Value(NONE.union(*(v.direct for v in values)), NONE.union(*(v.indirect for v in values)))


def _plain(value: Value) -> Value:
    return Value(value.direct, value.indirect)


def _merged(values: list[Value]) -> Value:
    """One of several values: made from all of them, field by field."""
    whole = _union(values)
    shaped = [value for value in values if value.fields]
    fields = None
    if shaped:
        names = dict.fromkeys(name for value in shaped for name in value.fields or {})
        fields = {name: _merged([value.get(name) for value in shaped]) for name in names}
    lengths = [value.length for value in values if value.length is not None]
    source = max((value.source for value in values), default="")
    return Value(whole.direct, whole.indirect, fields, NONE.union(*lengths) if lengths else None, source)


def _chosen(values: list[Value]) -> Value:
    """``when(condition, value, …, otherwise)``: made from the values, chosen by the conditions."""
    conditions = values[:-1:2] if len(values) % 2 else values[::2]
    results = values[1::2] + ([values[-1]] if len(values) % 2 else [])
    return _merged(results).because(_union(conditions).refs)


def _sorted(value: Value, *_: Value) -> Value:
    return value.because(value.direct)


def _one(value: Value, *at: Value) -> Value:
    """An element of an array, or a value picked by the order of others."""
    return replace(value, length=None).because(_union(at).refs)


def _size(value: Value) -> Value:
    return _plain(value) if value.length is None else Value(value.length)


def _transform(walk: _Walk, arguments: list[Any], frame: Frame) -> Value:
    over, made = _lambda(walk, arguments, frame)
    return replace(made, length=over.direct if over.length is None else over.length).because(over.indirect)


def _filtered(walk: _Walk, arguments: list[Any], frame: Frame) -> Value:
    over, made = _lambda(walk, arguments, frame)
    return replace(over, length=None).because(made.refs - over.direct)


def _lambda(walk: _Walk, arguments: list[Any], frame: Frame) -> tuple[Value, Value]:
    over = walk.value(arguments[0], frame)
    body = arguments[1].lambda_function
    names = [part for variable in body.arguments for part in variable.name_parts]
    inner = Frame(frame.columns | dict.fromkeys(names, replace(over, length=None, source="")), frame.rows)
    return over, walk.value(body.function, inner)


_HIGHER: dict[str, Callable[[_Walk, list[Any], Frame], Value]] = {
    "transform": _transform,
    "filter": _filtered,
    "map_filter": _filtered,
}

_SHAPED: dict[str, Callable[..., Value]] = {
    "when": lambda *values: _chosen(list(values)),
    "if": lambda *values: _chosen(list(values)),
    "coalesce": lambda *values: _merged(list(values)),
    "array": lambda *values: replace(_merged(list(values)), length=_union(values).refs),
    "array_sort": _sorted,
    "sort_array": _sorted,
    "array_distinct": lambda value: replace(value, length=None),
    "get": _one,
    "element_at": _one,
    "max_by": _one,
    "min_by": _one,
    "lag": lambda value, *_: value,
    "lead": lambda value, *_: value,
    "size": _size,
    "broadcast": lambda value: value,
    "map_from_entries": lambda value: value,
    "map_entries": lambda value: value,
}
