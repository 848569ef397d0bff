"""The forms of the API's answers, as its OpenAPI description has them: JSON, rows in CSV and Arrow, refusals."""

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
"""In UTC."""


class Form(BaseModel):
    """What is read from the attributes of what the library gives."""

    model_config = ConfigDict(from_attributes=True)


class Asked(BaseModel):
    """A query; limits can be lowered by it, and not raised."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(min_length=1, max_length=sandbox.LONGEST, examples=["SELECT count(*) FROM users_silver"])
    dialect: Literal["spark", "duckdb"] = "spark"
    limit: int = Field(1000, ge=1, le=10**9)
    timeout_ms: int = Field(10_000, ge=1, le=10**9)
    version: int | None = Field(None, ge=0, le=10**15, description="for a query over one table")

    @field_validator("limit", "timeout_ms", "version", mode="before")
    @classmethod
    def _a_number(cls, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise ValueError("a number is wanted")
        return value


class Problem(Form):
    """Why there is no answer; the id stands in the service's log."""

    code: str
    message: str
    request_id: str


class ColumnOfRows(Form):
    """A column of an answer; its type as Spark calls it."""

    name: str
    type: str


class Rows(Form):
    """Rows, whether there were more, and the versions of the tables that were read."""

    columns: list[ColumnOfRows]
    rows: list[list[Any]]
    truncated: bool
    elapsed_ms: float
    versions: dict[str, int]


class Line(Form):
    """A table in a line; version -1 where it has not been made."""

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
    """A column as it is declared."""

    name: str
    type: str
    required: bool
    comment: str


class Table(Line):
    """All that the catalog knows of a table, but where it lies."""

    columns: Annotated[list[Column], Field(description="those that it has now")]
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


class Layer(Form):
    """What a layer holds."""

    tables: int
    rows: int
    bytes: int


class Catalog(Form):
    """Every layer and every table."""

    layers: dict[str, Layer]
    tables: list[Line]


class Page(Form):
    """Some of the tables that were found."""

    total: int
    offset: int
    tables: list[Line]


class Version(Form):
    """A version of a table, rows in all and more or less than before."""

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
    """The last result of a check."""

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
    """Columns that a value comes from, and those that decide which value it is."""

    direct: list[str]
    indirect: list[str]


class Lineage(Form):
    """Each table with what it is made from and what is made from it, and the columns of one."""

    table: str
    upstream: dict[str, list[str]]
    downstream: dict[str, list[str]]
    columns: dict[str, Made]


class Finding(Form):
    """What is wrong with a table."""

    table: str
    kind: str
    verdict: str


class Health(Form):
    """Whether the lakehouse can be read, and how it is."""

    status: Literal["ok", "unreadable"]
    version: str
    verdict: str = "Unknown"
    checked_at: Moment | None = None
    checked: list[str] = []
    tables: dict[str, str] = {}
    findings: list[Finding] = []


def refusal(request: Request, status: int, code: str, message: str) -> JSONResponse:
    """A `Problem`."""
    about = {"code": code, "message": message, "request_id": getattr(request.state, "id", "")}
    return JSONResponse(about, status)


def rows(request: Request, found: pa.Table, truncated: bool, versions: dict[str, int], began: float) -> Response:
    """Rows in the form that the client asks for; what belongs to them is in the headers too."""
    elapsed = round((time.perf_counter() - began) * 1000, 1)
    headers = {"X-Truncated": str(truncated).lower(), "X-Elapsed-Ms": str(elapsed),
               "X-Versions": json.dumps(versions), "Vary": "Accept"}  # fmt: skip
    accept = request.headers.get("accept", "")
    if ARROW in accept:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, found.schema) as stream:
            stream.write_table(found)
        return Response(sink.getvalue(), media_type=ARROW, headers=headers)
    if CSV in accept:
        sink = io.BytesIO()
        pa_csv.write_csv(pa.table([_text(column) for column in found.columns], names=found.column_names), sink)
        return Response(sink.getvalue(), media_type=CSV, headers=headers)
    about = {
        "columns": [{"name": f.name, "type": tables.spark_type(f.type)} for f in found.schema],
        "rows": [list(map(plain, row)) for row in zip(*(c.to_pylist() for c in found.columns), strict=True)],
        "truncated": truncated,
        "elapsed_ms": elapsed,
        "versions": versions,
    }
    return JSONResponse(about, headers=headers)


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
    """A value as JSON has it: times in UTC, intervals as in ISO 8601, bytes in base 64, what is no number as text."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:g}S"
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
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
