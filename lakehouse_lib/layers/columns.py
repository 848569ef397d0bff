"""Column lineage: which source columns each column of a frame is computed from, read from its Spark Connect plan.

The plan is what the client sends to Spark, as protocol messages. It is walked once. For every expression the walk
collects the source columns that its value is computed from, and those that decide which value it is. Sources are
written ``table.column``; ``table.*`` means the number of rows of a table.
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
    """The sources of a value (``direct``), and the sources that decide which value it is (``indirect``).

    Arrays have the fields of their elements; ``length`` has the sources of the number of elements. The keys of a map
    with a ``source`` are columns of that source.
    """

    direct: Refs = NONE
    indirect: Refs = NONE
    fields: Mapping[str, Value] | None = None
    length: Refs | None = None
    source: str = ""

    @property
    def refs(self) -> Refs:
        """All sources that the value depends on."""
        return self.direct | self.indirect

    def get(self, name: str) -> Value:
        """Return a field of a struct, or the value of a key."""
        if self.source:
            return Value(frozenset({f"{self.source}.{name}"}))
        if self.fields and name in self.fields:
            inner = self.fields[name]
            return inner.because(self.indirect)
        return Value(self.direct, self.indirect)

    def because(self, refs: Refs) -> Value:
        """Return the same value, selected by further sources."""
        return replace(self, indirect=self.indirect | refs)


@dataclass
class Frame:
    """The columns of a relation; ``rows`` has the sources of its rows, ``by`` what selected and grouped them."""

    columns: dict[str, Value] = field(default_factory=dict)
    rows: Refs = NONE
    by: Refs = NONE


@dataclass(frozen=True)
class Lineage:
    """The sources of a table's columns: for each column, and each path into a column, the sorted names of source
    columns; ``by`` has what selected and grouped the rows."""

    direct: dict[str, list[str]]
    indirect: dict[str, list[str]]
    by: list[str]


def of(
    settings: Settings, target: str, frame: DataFrame, feed: tuple[str, DataFrame] | None = None, by: Iterable[str] = ()
) -> Lineage | None:
    """Return the lineage of the columns of a frame that is written to a table; None, with a warning in the log, if
    part of its plan is unknown.

    ``feed`` is the name of a feed and the frame of its records, whose fields count as columns of ``landing/<feed>``;
    ``by`` names columns of the frame that select its rows when it is written.
    """
    try:
        known = {}
        if feed:
            name, records = feed
            known[_plan(records).common.plan_id] = _records(name, records)
        lineage = _Walk(settings, known, frame.sparkSession).relation(_plan(frame))
        lineage.by |= _union(lineage.columns[name] for name in by).refs
    except Exception as error:
        log.warning("%s: lineage of its columns is not known (%s: %s)", target, type(error).__name__, error)
        return None
    return _settled(target, lineage)


def _plan(frame: DataFrame) -> Any:
    plan: Any = frame._plan
    return plan.plan(frame.sparkSession.client)


def _records(feed: str, records: DataFrame) -> Frame:
    source = f"landing/{feed}"
    whole = frozenset({f"{source}.*"})
    columns = {name: Value(whole) for name in records.columns}
    fields = Value(whole, source=source)
    return Frame(columns | {"record": fields, PICKED: fields}, whole)


def _settled(target: str, frame: Frame) -> Lineage:
    """Return paths and sources as text; a table's references to itself are replaced by their sources."""
    flat: dict[str, Value] = {}

    def add(path: str, value: Value) -> None:
        flat[path] = value
        for name in value.fields or {}:
            add(f"{path}.{name}", value.get(name))

    for name, value in frame.columns.items():
        add(name, value)
    prefix = f"{target}."

    def beyond(refs: Refs, seen: Refs = NONE) -> Refs:
        """Return references, replacing those to the table itself by their sources."""
        followed = {ref for ref in refs if not ref.startswith(prefix)}
        for ref in refs - seen:
            if ref.startswith(prefix) and (inner := flat.get(ref.removeprefix(prefix))):
                counted = inner.length if inner.fields else None
                followed |= beyond(inner.direct if counted is None else counted, seen | {ref})
        return frozenset(followed)

    direct = {path: beyond(value.direct) for path, value in flat.items()}
    return Lineage(
        {path: sorted(refs) for path, refs in direct.items()},
        {path: sorted(beyond(value.indirect) - direct[path]) for path, value in flat.items()},
        sorted(beyond(frame.by)),
    )


class _Walk:
    """One walk over a plan."""

    def __init__(self, settings: Settings, known: dict[int, Frame], spark: SparkSession):
        self.settings, self.spark = settings, spark
        self.known = known
        self.paths = {delta.table_path(settings, table): table for table in tables.declared(settings).values()}

    # Relations -------------------------------------------------------------

    def relation(self, node: Any) -> Frame:
        """Return the columns of a relation."""
        plan_id = node.common.plan_id
        if plan_id not in self.known:
            kind = node.WhichOneof("rel_type")
            body = getattr(node, kind)
            handle = getattr(self, f"_{kind}", None)
            # The other kinds sort, limit or pass on the rows of their input.
            frame = handle(body) if handle else self.relation(body.input)
            if not plan_id:
                return frame
            self.known[plan_id] = frame
        relation = self.known[plan_id]
        return Frame(dict(relation.columns), relation.rows, relation.by)

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
        """Return a table of the lakehouse, whose columns are sources."""
        table = tables.get(self.settings, name)
        opened = delta.opened(self.settings, table)
        schema = pa.schema(opened.schema().to_arrow()) if opened else table.arrow_schema()
        return Frame({f.name: _stored(f"{name}.{f.name}", f.type) for f in schema}, frozenset({f"{name}.*"}))

    def _cached_remote_relation(self, body: Any) -> Frame:
        """Return the columns of a settled frame: those of the frame it was computed from."""
        return self.relation(_plan(session.origin(self.spark, body.relation_id)))

    def _local_relation(self, body: Any) -> Frame:
        from pyspark.sql.types import _parse_datatype_json_string

        text, parsed = body.schema, cast("Callable[[str], Any]", _parse_datatype_json_string)
        names = parsed(text).names if text.startswith("{") else re.findall(r"(\w+)[ :]", text)
        return Frame({name: Value() for name in names})

    def _project(self, body: Any) -> Frame:
        if not body.HasField("input"):
            return Frame(
                {name: value for expression in body.expressions for name, value in self.named(expression, Frame())}
            )
        frame = self.relation(body.input)
        columns: dict[str, Value] = {}
        rows = frame.rows
        for expression in body.expressions:
            columns |= dict(self.named(expression, frame))
            rows = self._rows_made(expression, frame) or rows
        return Frame(columns, rows, frame.by)

    def _with_columns(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        added = {alias.name[0]: self._marked(alias.expr, frame) for alias in body.aliases}
        return Frame(frame.columns | added, frame.rows, frame.by)

    def _with_columns_renamed(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        names = dict(body.rename_columns_map) | {rename.col_name: rename.new_col_name for rename in body.renames}
        return Frame({names.get(name, name): value for name, value in frame.columns.items()}, frame.rows, frame.by)

    def _to_df(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        return Frame(dict(zip(body.column_names, frame.columns.values(), strict=True)), frame.rows, frame.by)

    def _drop(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        dropped = {*body.column_names, *(_name(column) for column in body.columns)}
        return Frame({name: v for name, v in frame.columns.items() if name not in dropped}, frame.rows, frame.by)

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
            first, second = left.columns[name], right.columns[name]
            by |= first.refs | second.refs
            columns[name] = _union([first, second]) if "FULL" in kind else second if "RIGHT" in kind else first
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
        groups = [pair for expression in body.grouping_expressions for pair in self.named(expression, frame)]
        grouped = _union(value for _, value in groups)
        aggregates = [pair for expression in body.aggregate_expressions for pair in self.named(expression, frame)]
        rows = grouped.refs if groups else NONE  # one row, whatever the input
        return Frame(dict(groups) | dict(aggregates), rows, frame.by | grouped.refs)

    def _with_relations(self, body: Any) -> Frame:
        frames = {}
        for reference in body.references:
            frame = self.relation(reference)
            if reference.WhichOneof("rel_type") == "subquery_alias":
                frames[reference.subquery_alias.alias] = frame
        if body.root.WhichOneof("rel_type") == "sql":
            return self._sql(body.root.sql, frames)
        return self.relation(body.root)

    def _sql(self, body: Any, passed: dict[str, Frame] | None = None) -> Frame:
        """Return the columns of a query over tables by name, or over frames passed with it."""
        parsed = sqlglot.parse_one(body.query, dialect="spark")
        named = {cte.alias for cte in parsed.find_all(exp.CTE)}
        frames = {
            source.name: (passed or {}).get(source.name) or self._table(source.name)
            for source in parsed.find_all(exp.Table)
            if source.name not in named
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
        """Return the columns that an expression of a projection produces."""
        kind = node.WhichOneof("expr_type")
        if kind == "unresolved_star":
            target = node.unresolved_star.unparsed_target.removesuffix(".*")
            if not target:
                return list(frame.columns.items())
            owner = self.attribute(target, frame)
            return [(name, owner.get(name)) for name in owner.fields or {}]
        names = list(node.alias.name) if kind == "alias" else []
        inner = node.alias.expr if kind == "alias" else node
        call = inner.unresolved_function if inner.WhichOneof("expr_type") == "unresolved_function" else None
        function = call.function_name.removesuffix("_outer") if call else ""
        if call and function in ("explode", "posexplode", "inline"):
            value = self.value(call.arguments[0], frame)
            if function == "inline":
                parts = [(name, value.get(name)) for name in value.fields or {}]
                return [(alias, part) for alias, (_, part) in zip(names or value.fields or {}, parts, strict=True)]
            element = replace(value, length=None)
            if function == "posexplode":
                return list(zip(names or ("pos", "col"), (Value(indirect=value.refs), element), strict=True))
            return [(name, element) for name in names or ("col",)]
        return [(names[0] if names else _name(node), self._marked(inner, frame))]

    def _rows_made(self, node: Any, frame: Frame) -> Refs | None:
        """Return the sources of the rows if an expression turns one row into several."""
        inner = node.alias.expr if node.WhichOneof("expr_type") == "alias" else node
        if inner.WhichOneof("expr_type") != "unresolved_function":
            return None
        call = inner.unresolved_function
        if call.function_name.removesuffix("_outer") not in ("explode", "posexplode", "inline"):
            return None
        value = self.value(call.arguments[0], frame)
        return value.direct if value.length is None else value.length

    def _marked(self, node: Any, frame: Frame) -> Value:
        """Return the value of a column. A constant 1 or true is meant to be counted, so its sources are the rows."""
        inner = node
        while inner.WhichOneof("expr_type") == "cast":
            inner = inner.cast.expr
        if inner.WhichOneof("expr_type") == "literal":
            kind = inner.literal.WhichOneof("literal_type")
            if kind in ("boolean", "integer", "long") and getattr(inner.literal, kind) == 1:
                return Value(frame.rows)
        return self.value(node, frame)

    def value(self, node: Any, frame: Frame) -> Value:
        """Return the sources of an expression."""
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
                order = [part.child for part in body.order_spec]
                over = [self.value(part, frame) for part in (*body.partition_spec, *order)]
                return self.value(body.window_function, frame).because(_union(over).refs)
            case "unresolved_extract_value":
                return self._part(self.value(body.child, frame), body.extraction, frame)
            case "unresolved_function" | "call_function":
                return self.call(body.function_name.lower(), list(body.arguments), frame)
        raise NotImplementedError(f"expression {kind}")

    def _part(self, owner: Value, which: Any, frame: Frame) -> Value:
        """Return a field of a struct, or an element of an array or a map."""
        if which.WhichOneof("expr_type") == "literal":
            return owner.get(str(getattr(which.literal, which.literal.WhichOneof("literal_type"))))
        return replace(owner, length=None).because(self.value(which, frame).refs)

    def attribute(self, text: str, frame: Frame) -> Value:
        """Return a column by name, or a field of it; a leading qualifier is ignored."""
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
        """Return the sources of a function call. An unknown function is assumed to use all of its arguments."""
        if handle := _HIGHER.get(name):
            return handle(self, arguments, frame)
        values = [self.value(argument, frame) for argument in arguments]
        if name in ("named_struct", "struct"):
            if name == "struct":
                fields = {_name(argument): value for argument, value in zip(arguments, values, strict=True)}
            else:
                names = [argument.literal.string for argument in arguments[::2]]
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
    """Return a column of a table; each field of a struct is a separate source."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return replace(_stored(ref, kind.value_type), length=frozenset({ref}))
    if pa.types.is_struct(kind):
        fields = {part.name: _stored(f"{ref}.{part.name}", part.type) for part in kind}
        return Value(_union(fields.values()).direct, NONE, fields)
    return Value(frozenset({ref}))


def _name(node: Any) -> str:
    """Return the name that Spark gives to a column without an alias."""
    kind = node.WhichOneof("expr_type")
    if kind == "alias":
        return str(node.alias.name[0])
    if kind == "unresolved_attribute":
        return _parts(node.unresolved_attribute.unparsed_identifier)[-1]
    return _name(node.cast.expr) if kind == "cast" else str(kind)


def _parts(text: str) -> list[str]:
    """Split a dotted name, removing backticks."""
    return [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|([^.`]+)", text)]


def _union(values: Iterable[Value]) -> Value:
    values = list(values)
    return Value(NONE.union(*(v.direct for v in values)), NONE.union(*(v.indirect for v in values)))


def _plain(value: Value) -> Value:
    return Value(value.direct, value.indirect)


def _merged(values: list[Value]) -> Value:
    """Return a value that may be any of several: it has the sources of all of them, field by field."""
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
    """Return ``when(condition, value, …, otherwise)``: computed from the values, selected by the conditions."""
    conditions = values[:-1:2] if len(values) % 2 else values[::2]
    results = values[1::2] + ([values[-1]] if len(values) % 2 else [])
    return _merged(results).because(_union(conditions).refs)


def _sorted(value: Value, *_: Value) -> Value:
    return value.because(value.direct)


def _one(value: Value, *at: Value) -> Value:
    """Return an element of an array, or a value selected by the order of others."""
    return replace(value, length=None).because(_union(at).refs)


def _size(value: Value) -> Value:
    return _plain(value) if value.length is None else Value(value.length)


def _transform(walk: _Walk, arguments: list[Any], frame: Frame) -> Value:
    over, result = _lambda(walk, arguments, frame)
    return replace(result, length=over.direct if over.length is None else over.length).because(over.indirect)


def _filtered(walk: _Walk, arguments: list[Any], frame: Frame) -> Value:
    over, condition = _lambda(walk, arguments, frame)
    return replace(over, length=None).because(condition.refs - over.direct)


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
