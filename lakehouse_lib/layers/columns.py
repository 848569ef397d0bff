"""Column lineage: which source columns each column of a frame is computed from, read from its Spark Connect plan.

The plan is what the client sends to Spark, as protocol messages. It is walked once, relation by relation;
`column_sources` says what each expression is computed from.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.lineage import lineage as sql_lineage

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.intake.records import PICKED
from lakehouse_lib.layers.column_sources import (
    NONE,
    Frame,
    Refs,
    Value,
    column_value,
    exploded_rows,
    merged,
    name_of,
    named,
    sources_of,
    union,
)
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)


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
        lineage.by |= union(lineage.columns[name] for name in by).refs
    except Exception as error:
        log.warning("%s: lineage of its columns is not known (%s: %s)", target, type(error).__name__, error)
        return None
    return _resolved(target, lineage)


def _plan(frame: DataFrame) -> Any:
    plan: Any = frame._plan
    return plan.plan(frame.sparkSession.client)


def _records(feed: str, records: DataFrame) -> Frame:
    source = f"landing/{feed}"
    whole = frozenset({f"{source}.*"})
    columns = {name: Value(whole) for name in records.columns}
    fields = Value(whole, source=source)
    return Frame(columns | {"record": fields, PICKED: fields}, whole)


def _resolved(target: str, frame: Frame) -> Lineage:
    """Return paths and sources as text; a table's references to itself are replaced by their sources."""
    flat: dict[str, Value] = {}

    def add(path: str, value: Value) -> None:
        flat[path] = value
        for name in value.fields or {}:
            add(f"{path}.{name}", value.get(name))

    for name, value in frame.columns.items():
        add(name, value)
    prefix = f"{target}."

    def resolve(refs: Refs, seen: Refs = NONE) -> Refs:
        """Return references, replacing those to the table itself by their sources."""
        followed = {ref for ref in refs if not ref.startswith(prefix)}
        for ref in refs - seen:
            if ref.startswith(prefix) and (inner := flat.get(ref.removeprefix(prefix))):
                counted = inner.length if inner.fields else None
                followed |= resolve(inner.direct if counted is None else counted, seen | {ref})
        return frozenset(followed)

    direct = {path: resolve(value.direct) for path, value in flat.items()}
    return Lineage(
        {path: sorted(refs) for path, refs in direct.items()},
        {path: sorted(resolve(value.indirect) - direct[path]) for path, value in flat.items()},
        sorted(resolve(frame.by)),
    )


class _Walk:
    """One walk over a plan."""

    def __init__(self, settings: Settings, known: dict[int, Frame], spark: SparkSession):
        self.settings, self.spark = settings, spark
        self.known = known
        self.paths = {delta.table_path(settings, table): table for table in tables.declared(settings).values()}

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
            return Frame({name: value for expression in body.expressions for name, value in named(expression, Frame())})
        frame = self.relation(body.input)
        columns: dict[str, Value] = {}
        rows = frame.rows
        for expression in body.expressions:
            columns |= dict(named(expression, frame))
            rows = exploded_rows(expression, frame) or rows
        return Frame(columns, rows, frame.by)

    def _with_columns(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        added = {alias.name[0]: column_value(alias.expr, frame) for alias in body.aliases}
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
        dropped = {*body.column_names, *(name_of(column) for column in body.columns)}
        return Frame({name: v for name, v in frame.columns.items() if name not in dropped}, frame.rows, frame.by)

    def _filter(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        return Frame(frame.columns, frame.rows, frame.by | sources_of(body.condition, frame).refs)

    def _deduplicate(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        names = list(body.column_names) or list(frame.columns)
        kept = union(frame.columns[n] for n in names).refs
        return Frame(frame.columns, kept, frame.by | kept)

    def _join(self, body: Any) -> Frame:
        left, right = self.relation(body.left), self.relation(body.right)
        kind = type(body).JoinType.Name(body.join_type)
        by = left.by | right.by
        columns = left.columns | {n: v for n, v in right.columns.items() if n not in body.using_columns}
        for name in body.using_columns:
            first, second = left.columns[name], right.columns[name]
            by |= first.refs | second.refs
            columns[name] = union([first, second]) if "FULL" in kind else second if "RIGHT" in kind else first
        if body.HasField("join_condition"):
            by |= sources_of(body.join_condition, Frame(left.columns | right.columns)).refs
        if "SEMI" in kind or "ANTI" in kind:
            return Frame(left.columns, left.rows, by)
        return Frame(columns, left.rows if "LEFT" in kind else left.rows | right.rows, by)

    def _set_op(self, body: Any) -> Frame:
        left, right = self.relation(body.left_input), self.relation(body.right_input)
        by = left.by | right.by
        if body.set_op_type != type(body).SetOpType.Value("SET_OP_TYPE_UNION"):
            return Frame(left.columns, left.rows, by | union(right.columns.values()).refs)
        others = right.columns if body.by_name else dict(zip(left.columns, right.columns.values(), strict=True))
        names = dict.fromkeys([*left.columns, *others])
        both = {n: merged([frame[n] for frame in (left.columns, others) if n in frame]) for n in names}
        return Frame(both, left.rows | right.rows, by)

    def _aggregate(self, body: Any) -> Frame:
        frame = self.relation(body.input)
        groups = [pair for expression in body.grouping_expressions for pair in named(expression, frame)]
        grouped = union(value for _, value in groups)
        aggregates = [pair for expression in body.aggregate_expressions for pair in named(expression, frame)]
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
        cte_names = {cte.alias for cte in parsed.find_all(exp.CTE)}
        frames = {
            source.name: (passed or {}).get(source.name) or self._table(source.name)
            for source in parsed.find_all(exp.Table)
            if source.name not in cte_names
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
            columns[name] = union(
                frames[node.expression.name].columns.get(node.name.rpartition(".")[2].strip('"`'), Value())
                for node in leaves
            )
        used = union(
            frame.columns[column.name]
            for clause in parsed.find_all(exp.Where, exp.Join, exp.Group, exp.Having)
            for column in clause.find_all(exp.Column)
            for frame in frames.values()
            if column.name in frame.columns
        )
        rows = frozenset().union(*(frame.rows for frame in frames.values()))
        return Frame(columns, rows, used.refs.union(*(frame.by for frame in frames.values())))


def _stored(ref: str, kind: pa.DataType) -> Value:
    """Return a column of a table; each field of a struct is a separate source."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return replace(_stored(ref, kind.value_type), length=frozenset({ref}))
    if pa.types.is_struct(kind):
        fields = {part.name: _stored(f"{ref}.{part.name}", part.type) for part in kind}
        return Value(union(fields.values()).direct, NONE, fields)
    return Value(frozenset({ref}))
