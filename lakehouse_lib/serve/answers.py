"""Response models of the API, as published in its OpenAPI description: JSON, rows as CSV or Arrow, errors."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from lakehouse_lib.model import tables
from lakehouse_lib.serve import sandbox

ARROW, CSV = "application/vnd.apache.arrow.stream", "text/csv"

Moment = Annotated[datetime, AfterValidator(lambda at: at.replace(tzinfo=at.tzinfo or UTC))]
"""A point in time; without a time zone it is taken as UTC."""


class Form(BaseModel):
    """Base of the models that are filled from the attributes of the library's objects."""

    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """A query; it may lower the limits but not raise them."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(min_length=1, max_length=sandbox.LONGEST, examples=["SELECT count(*) FROM users_silver"])
    dialect: Literal["spark", "duckdb"] = "spark"
    limit: int = Field(1000, ge=1, le=10**9)
    timeout_ms: int = Field(10_000, ge=1, le=10**9)
    version: int | None = Field(None, ge=0, le=10**15, description="only for a query over a single table")

    @field_validator("limit", "timeout_ms", "version", mode="before")
    @classmethod
    def _require_number(cls, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise ValueError("a number is required")
        return value


class Problem(Form):
    """Why a request failed; the service's log has more under the same id."""

    code: str
    message: str
    request_id: str


class ColumnOfRows(Form):
    """A column of the result, with its Spark type."""

    name: str
    type: str


class Rows(Form):
    """Rows, whether they were truncated, and the versions of the tables that were read."""

    columns: list[ColumnOfRows]
    rows: list[list[Any]]
    truncated: bool
    elapsed_ms: float
    versions: dict[str, int]


class Line(Form):
    """Summary of a table; its version is -1 if it has not been created yet."""

    name: str
    layer: str
    tier: str
    description: str
    grain: str
    owner: str
    tags: list[str]
    rows: int
    bytes: int
    version: int
    updated_at: Moment | None
    state: str
    verdict: str


class Column(Form):
    """A column as declared."""

    name: str
    type: str
    required: bool
    comment: str


class MadeWith(Form):
    """The settings and the code, by version or digest, that a table was made with."""

    settings: dict[str, Any]
    code: str


class Table(Line):
    """Everything the catalog knows about a table except its location."""

    columns: Annotated[list[Column], Field(description="the current columns")]
    key: list[str]
    sources: list[str]
    consumers: list[str]
    made_by: str
    notebook: str
    partition_by: str
    cluster_by: list[str]
    freshness_hours: int
    retention_days: int
    files: int
    sample_query: str
    fingerprint: Annotated[str, Field(description="names the declaration, settings and code by which it is made")]
    rules: Annotated[str, Field(description="current, changed rules, or forward only, with what has changed")]
    rules_since: Moment | None
    made_with: MadeWith


class Layer(Form):
    """Totals of a layer."""

    tables: int
    rows: int
    bytes: int


class Catalog(Form):
    """Every layer and every table."""

    layers: dict[str, Layer]
    tables: list[Line]


class Page(Form):
    """One page of the matching tables."""

    total: int
    offset: int
    tables: list[Line]


class Version(Form):
    """A version of a table: its total rows, and the change since the version before."""

    version: int
    at: Moment
    operation: str
    run_id: str
    rows: int
    change: int
    files: int


class History(Form):
    """Versions, newest first."""

    table: str
    versions: list[Version]


class Check(Form):
    """The latest result of a check."""

    check_name: str
    kind: str
    severity: str
    passed: bool | None
    measured: float | None
    expected: str
    rows: int
    failing_rows: int
    message: str
    checked_at: Moment
    table_version: int


class Quality(Form):
    """The checks of a table."""

    table: str
    checks: list[Check]


class Made(Form):
    """The columns a value is derived from, and those that decide which value it is."""

    direct: list[str]
    indirect: list[str]


class Rules(Form):
    """The fingerprint of a table's declaration, settings and code, since when it has it, and whether it is current."""

    fingerprint: str
    since: Moment | None
    state: str


class Lineage(Form):
    """Upstream and downstream tables with their direct neighbours, and the column lineage of one table."""

    table: str
    upstream: dict[str, list[str]]
    downstream: dict[str, list[str]]
    columns: dict[str, Made]
    rules: Annotated[dict[str, Rules], Field(description="by which rules the table and its sources are made")]


class Finding(Form):
    """What is wrong with a table."""

    table: str
    kind: str
    verdict: str


class Health(Form):
    """Whether the lakehouse can be read, and its health."""

    status: Literal["ok", "unreadable"]
    version: str
    verdict: str = "Unknown"
    checked_at: Moment | None = None
    checked: list[str] = []
    tables: dict[str, str] = {}
    findings: list[Finding] = []


def refusal(request: Request, status: int, code: str, message: str) -> JSONResponse:
    """Return an error response, in the form of `Problem`."""
    problem = {"code": code, "message": message, "request_id": getattr(request.state, "id", "")}
    return JSONResponse(problem, status)


def rows(request: Request, table: pa.Table, truncated: bool, versions: dict[str, int], began: float) -> Response:
    """Return rows in the format that the client accepts; the metadata is in the headers as well."""
    elapsed = round((time.perf_counter() - began) * 1000, 1)
    headers = {"X-Truncated": str(truncated).lower(), "X-Elapsed-Ms": str(elapsed),
               "X-Versions": json.dumps(versions), "Vary": "Accept"}  # fmt: skip
    accept = request.headers.get("accept", "")
    if ARROW in accept:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return Response(sink.getvalue(), media_type=ARROW, headers=headers)
    if CSV in accept:
        sink = io.BytesIO()
        pa_csv.write_csv(pa.table([_text(column) for column in table.columns], names=table.column_names), sink)
        return Response(sink.getvalue(), media_type=CSV, headers=headers)
    payload = {
        "columns": [{"name": f.name, "type": tables.spark_type(f.type)} for f in table.schema],
        "rows": [list(map(plain, row)) for row in zip(*(c.to_pylist() for c in table.columns), strict=True)],
        "truncated": truncated,
        "elapsed_ms": elapsed,
        "versions": versions,
    }
    return JSONResponse(payload, headers=headers)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, structs, bytes, intervals
        values = [
            value if value is None or isinstance(value, str) else json.dumps(value)
            for value in plain(column.to_pylist())
        ]
        return pa.array(values, pa.string())


def plain(value: Any) -> Any:
    """Return a value as JSON: times in UTC, intervals in ISO 8601, bytes in base64, NaN and infinity as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:g}S"
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return value.item() if hasattr(value, "item") else str(value)
