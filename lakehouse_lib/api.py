"""The REST API: what tables there are, what is in them, where they come from and how they are.

Answers come from `reader`, `catalog`, `health` and `lineage`, without an engine. Names are looked up
in the catalog and never become part of a path; no answer holds a path, a stack or a secret.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lakehouse_lib import catalog, delta, lineage, quality, reader, sandbox, tables
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError

if TYPE_CHECKING:
    from lakehouse_lib.health import Report

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "LAKEHOUSE_API_TOKEN"
VERSION = metadata.version("lakehouse-workbook")
ARROW, CSV = "application/vnd.apache.arrow.stream", "text/csv"
FRESH = 10.0
"""Seconds for which the state of the lakehouse is taken as known."""

PROCESSES = 2
"""Processes that run queries: one for each of a small machine's cores."""
LARGEST_BODY = 64 * 1024
"""Bytes of a request."""
LARGEST_ANSWER = 16 * 2**20
"""Bytes of the rows of one answer."""
STATUS = {"timeout": 408, "busy": 429, "too_large": 413, "too_long": 413, "no_such_table": 404, "not_made": 404}
"""Status of a query that is not answered; others are 400."""

Limit = Annotated[int, Query(ge=1, description="rows at most")]


class Asked(BaseModel):
    """A query; limits can be lowered by it, and not raised."""

    model_config = ConfigDict(extra="forbid")

    sql: str = Field(min_length=1, max_length=sandbox.LONGEST)
    dialect: Literal["spark", "duckdb"] = "spark"
    limit: int = Field(1000, ge=1, le=10**9)
    timeout_ms: int = Field(10_000, ge=1, le=10**9)
    version: int | None = Field(None, ge=0, le=10**15, description="for a query over one table")


def build(settings: Settings, token: str = "", host: str = "127.0.0.1") -> FastAPI:
    """The application.

    Raises
    ------
    ConfigError
        It is to be reached from other machines, and there is no token.
    """
    local = _is_loopback(host)
    if not local and not token:
        raise ConfigError(
            f"The API on {host} can be reached from other machines and needs a token: set {TOKEN_VARIABLE}, "
            "or bind it to 127.0.0.1."
        )
    app = FastAPI(title="Lakehouse", version=VERSION, description=__doc__.split("\n\n")[0])
    state = _State(settings)
    app.state.close = state.pool.close
    _middleware(app, state, settings, token, local)
    _errors(app)
    _routes(app, state, settings)
    return app


class _State:
    """What outlives a request: counters, places at the tables, the last look at the health."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.pool = sandbox.Pool(PROCESSES)
        self.places = threading.BoundedSemaphore(settings.api_at_once)
        self.registry = CollectorRegistry()
        self.requests = Counter("lakehouse_api_requests", "Answers of the API", ["route", "status"],
                                registry=self.registry)  # fmt: skip
        self.seconds = Histogram("lakehouse_api_request_seconds", "Time to answer", ["route"], registry=self.registry)
        self._looking = threading.Lock()
        self._report: tuple[float, Report] | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places at the tables, or 429."""
        if not self.places.acquire(blocking=False):
            raise sandbox.Denied("busy", "Too many requests read tables at once; ask again.")
        try:
            yield
        finally:
            self.places.release()

    def report(self) -> Report:
        """The health, looked at anew when it is older than `FRESH` seconds."""
        from lakehouse_lib import health  # brings pyspark's modules along, and the service starts without

        with self._looking:
            if self._report is None or time.monotonic() - self._report[0] > FRESH:
                self._report = time.monotonic(), health.report(self.settings)
            return self._report[1]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _middleware(app: FastAPI, state: _State, settings: Settings, token: str, local: bool) -> None:
    if local:  # a page that a browser shows cannot reach it under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    if settings.api_cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.api_cors_origins, allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"])  # fmt: skip

    @app.middleware("http")
    async def around(request: Request, call_next: Callable) -> Response:
        request.state.id, began = uuid.uuid4().hex, time.perf_counter()
        given = request.headers.get("authorization", "")
        known = hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isdigit() and int(length) <= LARGEST_BODY):
            status, code = (413, "too_long") if length else (411, "no_length")
            answer: Response = _refusal(request, status, code, f"Send a body of at most {LARGEST_BODY} bytes.")
        elif token and not known and request.url.path != "/health":
            answer = _refusal(request, 401, "no_token", "Send the header Authorization: Bearer <token>.")
            answer.headers["WWW-Authenticate"] = "Bearer"
        else:
            answer = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "other")
        state.requests.labels(route, answer.status_code).inc()
        state.seconds.labels(route).observe(time.perf_counter() - began)
        answer.headers["X-Request-ID"] = request.state.id
        return answer


def _refusal(request: Request, status: int, code: str, message: str) -> JSONResponse:
    about = {"code": code, "message": message, "request_id": getattr(request.state, "id", "")}
    return JSONResponse(about, status)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(sandbox.Denied)
    async def denied(request: Request, error: sandbox.Denied) -> Response:
        answer = _refusal(request, STATUS.get(error.code, 400), error.code, str(error))
        if error.code == "busy":
            answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(LakehouseError)
    async def known(request: Request, error: LakehouseError) -> Response:
        if isinstance(error, ConfigError):
            if str(error).startswith("there is no table"):
                return _refusal(request, 404, "no_such_table", str(error))
            return _refusal(request, 400, "wrong_request", str(error))
        made = "has not been made" in str(error)
        text = str(error) if made else "The table cannot be read; the service's log says more."
        log.warning("request %s: %s", request.state.id, error)
        return _refusal(request, 404 if made else 503, "not_made" if made else "unreadable", text)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return _refusal(request, 422, "wrong_request", said)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        answer = _refusal(request, error.status_code, "refused", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        log.error("request %s failed", getattr(request.state, "id", ""), exc_info=error)
        return _refusal(request, 500, "internal", "The request failed; the service's log says more under its id.")


def _routes(app: FastAPI, state: _State, settings: Settings) -> None:
    def reading() -> Iterator[None]:
        with state.place():
            yield

    tables_read = [Depends(reading, scope="function")]  # free before the answer is sent, for the next request

    @app.get("/health", tags=["state"])
    def get_health() -> Response:
        """Whether the lakehouse can be read, and how it is; 503 if it cannot."""
        try:
            made = state.report()
        except Exception as error:
            log.error("the health cannot be told", exc_info=error)
            return JSONResponse({"status": "unreadable", "version": VERSION}, 503)
        about = {"status": "ok", "verdict": made.verdict, "version": VERSION,
                 "checked_at": made.generated_at.isoformat(timespec="seconds"),
                 "checked": ["tables", "runs", "ledger", "checks", "freshness", "volume", "clock", "files", "logs"],
                 "tables": made.states,
                 "findings": [{"table": one.table, "kind": one.kind, "verdict": one.verdict}
                              for one in made.findings]}  # fmt: skip
        unreadable = bool(made.states) and not made.rows and made.verdict == "Degraded"
        return JSONResponse(about | ({"status": "unreadable"} if unreadable else {}), 503 if unreadable else 200)

    @app.get("/catalog", tags=["catalog"], dependencies=tables_read)
    def get_catalog() -> dict[str, Any]:
        """How many tables, rows and bytes each layer has, and every table in a line."""
        entries = list(catalog.entries(settings).values())
        layers = {
            layer: {"tables": sum(e.layer == layer for e in entries),
                    "rows": sum(e.rows for e in entries if e.layer == layer),
                    "bytes": sum(e.bytes for e in entries if e.layer == layer)}
            for layer in tables.LAYERS
        }  # fmt: skip
        return {"layers": layers, "tables": [_line(entry) for entry in entries]}

    @app.get("/tables", tags=["catalog"], dependencies=tables_read)
    def get_tables(
        layer: str = "", tag: str = "", owner: str = "", q: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100, offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Tables of a layer, with a tag, of an owner, that hold words; by page."""
        found = catalog.matching(catalog.entries(settings), q)
        found = [e for e in found if layer in ("", e.layer) and (not tag or tag in e.tags) and owner in ("", e.owner)]
        return {"total": len(found), "offset": offset, "tables": [_line(e) for e in found[offset : offset + limit]]}

    @app.get("/tables/{name}", tags=["tables"], dependencies=tables_read)
    def get_table(name: str) -> dict[str, Any]:
        """One table: columns, owner, tags, grain, sources, state."""
        entry = asdict(catalog.describe(settings, name))
        del entry["path"]
        return _plain(entry | {"columns": json.loads(entry["columns"])})

    @app.get("/tables/{name}/preview", tags=["tables"], dependencies=tables_read)
    def get_preview(
        request: Request, name: str, limit: Limit = 10, columns: str = "", order_by: str = "", descending: bool = False,
        version: Annotated[int | None, Query(ge=0)] = None,
    ) -> Response:  # fmt: skip
        """Some rows, as JSON, CSV or an Arrow stream (by ``Accept``)."""
        began, most = time.perf_counter(), min(limit, settings.api_max_rows)
        wanted = [column.strip() for column in columns.split(",") if column.strip()]
        rows, read = reader.preview(settings, name, version, wanted, order_by, descending, most + 1)
        return _rows(request, rows.slice(0, most), rows.num_rows > most, {name: read}, began)

    @app.get("/tables/{name}/history", tags=["tables"], dependencies=tables_read)
    def get_history(name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """Versions, newest first: when, by which operation and run, rows and their change."""
        from lakehouse_lib import history

        found = history.versions(settings, tables.get(settings, name)).head(limit)
        return {"table": name, "versions": [_plain(row) for row in found.to_dict("records")]}

    @app.get("/tables/{name}/quality", tags=["tables"], dependencies=tables_read)
    def get_quality(name: str) -> dict[str, Any]:
        """The last result of each check. Keys of failing rows are data, and are not given here."""
        tables.get(settings, name)
        wanted = ("check_name", "kind", "severity", "passed", "measured", "expected", "rows", "failing_rows", "message",
                  "checked_at", "table_version")  # fmt: skip
        found = quality.latest(settings).get(name, {}).values()
        return {"table": name, "checks": [_plain({key: getattr(one, key) for key in wanted}) for one in found]}

    @app.get("/catalog/lineage/{name}", tags=["catalog"], dependencies=tables_read)
    def get_lineage(name: str) -> dict[str, Any]:
        """What a table is made from, what is made from it, and where its columns come from."""
        up, down = lineage.upstream(settings, name), lineage.downstream(settings, name)
        columns = {column.partition(".")[2]: asdict(made) for column, made in lineage.columns(settings).items()
                   if column.startswith(f"{name}.")}  # fmt: skip
        return {"table": name, "upstream": up, "downstream": down, "columns": columns}

    @app.post("/query", tags=["query"], dependencies=tables_read)
    def post_query(request: Request, asked: Asked) -> Response:
        """The answer of one SELECT, in Spark SQL or DuckDB's, over the tables by name or ``layer.name``."""
        began = time.perf_counter()
        known = {t.name: (t.layer, delta.table_path(settings, t)) for t in tables.declared(settings).values()}
        seconds = min(asked.timeout_ms, settings.api_timeout_ms) / 1000
        most = min(asked.limit, settings.api_max_rows)
        found = state.pool.ask({
            "sql": asked.sql, "dialect": asked.dialect, "version": asked.version, "limit": most,
            "bytes": LARGEST_ANSWER, "tables": sandbox.tables_for(asked.sql, known),
        }, seconds)  # fmt: skip
        return _rows(request, found.rows, found.truncated, found.versions, began)

    @app.get("/metrics", tags=["state"])
    def get_metrics() -> Response:
        """For Prometheus: health, rows, ages, failing checks, and the API's own answers."""
        return Response(generate_latest(state.registry) + _metrics(settings, state), media_type="text/plain")


def _line(entry: catalog.Entry) -> dict[str, Any]:
    names = ("name", "layer", "tier", "description", "grain", "owner", "tags", "rows", "bytes", "version", "updated_at",
             "state", "verdict")  # fmt: skip
    return _plain({name: getattr(entry, name) for name in names})


def _rows(request: Request, rows: pa.Table, truncated: bool, versions: dict[str, int], began: float) -> Response:
    """Rows in the form that the client asks for; what belongs to them is in the headers too."""
    elapsed = round((time.perf_counter() - began) * 1000, 1)
    headers = {"X-Truncated": str(truncated).lower(), "X-Elapsed-Ms": str(elapsed),
               "X-Versions": json.dumps(versions), "Vary": "Accept"}  # fmt: skip
    accept = request.headers.get("accept", "")
    if ARROW in accept:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        return Response(sink.getvalue(), media_type=ARROW, headers=headers)
    if CSV in accept:
        flat = [column.cast(pa.string()) if not pa.types.is_nested(column.type) else
                pa.array([None if v is None else json.dumps(_plain(v)) for v in column.to_pylist()], pa.string())
                for column in rows.columns]  # fmt: skip
        sink = io.BytesIO()
        pa_csv.write_csv(pa.table(flat, names=rows.column_names), sink)
        return Response(sink.getvalue(), media_type=CSV, headers=headers)
    about = {
        "columns": [{"name": f.name, "type": tables.spark_type(f.type)} for f in rows.schema],
        "rows": [[_plain(value) for value in row.values()] for row in rows.to_pylist()],
        "truncated": truncated, "elapsed_ms": elapsed, "versions": versions,
    }  # fmt: skip
    return JSONResponse(about, headers=headers)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times in UTC, numbers that JSON lacks as text."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _metrics(settings: Settings, state: _State) -> bytes:
    from lakehouse_lib import health

    registry = CollectorRegistry()
    made = state.report()
    verdict = Gauge("lakehouse_health", "0 healthy, 1 unknown, 2 warning, 3 degraded", registry=registry)
    verdict.set(health.VERDICTS.index(made.verdict))
    rows = Gauge("lakehouse_table_rows", "Rows", ["table", "layer"], registry=registry)
    event = Gauge("lakehouse_table_event_age_seconds", "Age of the newest event", ["table"], registry=registry)
    load = Gauge("lakehouse_table_load_age_seconds", "Time since the last load", ["table"], registry=registry)
    failing = Gauge("lakehouse_failing_checks", "Checks that fail", ["table", "severity"], registry=registry)
    known, now = quality.latest(settings), datetime.now(UTC)
    for table in tables.declared(settings).values():
        if table.name not in made.rows:
            continue
        rows.labels(table.name, table.layer).set(made.rows[table.name])
        happened, loaded = health.newest(settings, table, delta.open_table(delta.table_path(settings, table)))
        for gauge, at in ((event, happened), (load, loaded)):
            if at is not None:
                gauge.labels(table.name).set((now - at).total_seconds())
        for severity in ("error", "warn"):
            count = sum(not one.passed and one.severity == severity for one in known.get(table.name, {}).values())
            failing.labels(table.name, severity).set(count)
    return generate_latest(registry)


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until it is stopped.

    Raises
    ------
    ConfigError
        It needs a token, or the port is taken.
    """
    import socket

    import uvicorn

    app = build(settings, os.environ.get(TOKEN_VARIABLE, ""), host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"The API cannot listen on {host}:{port}: {error.strerror}. Say another --port."
            ) from None
    print(f"API on http://{host}:{port}, its description on http://{host}:{port}/docs", flush=True)
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)
    finally:
        app.state.close()
