"""The REST API: what tables there are, what is in them, where they come from and how they are.

Answers come from `reader`, `catalog`, `health` and `lineage`, without an engine. Names are looked up
in the catalog and never become part of a path; no answer holds a path, a stack or a secret.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException

from lakehouse_lib.catalog import catalog, lineage
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError, NotMadeError, UnknownTableError
from lakehouse_lib.model import tables
from lakehouse_lib.serve import answers, sandbox
from lakehouse_lib.serve.answers import Health
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality

if TYPE_CHECKING:
    from lakehouse_lib.care.health import Report

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "LAKEHOUSE_API_TOKEN"
VERSION = metadata.version("lakehouse-workbook")
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

ERRORS = (
    (UnknownTableError, 404, "no_such_table"),
    (NotMadeError, 404, "not_made"),
    (ConfigError, 400, "wrong_request"),
)
"""Status and code of errors that the reader of an answer can do something about; others are 503."""

CHECKED = ["tables", "runs", "ledger", "checks", "freshness", "volume", "clock", "files", "logs"]
ASSETS = "/assets"
"""Where the description's page finds its script and style."""

Limit = Annotated[int, Query(ge=1, le=10**9, description="rows at most")]
Name = Annotated[str, Path(description="a table of the catalog", examples=["users_silver"])]


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
    asked = [Security(HTTPBearer(auto_error=False))] if token else []  # for the description; `_middleware` asks
    app = FastAPIOffline(title="Lakehouse", version=VERSION, description=__doc__.split("\n\n")[0], redoc_url=None,
                         static_url=ASSETS, dependencies=asked)  # fmt: skip
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
        self.requests = Counter(
            "lakehouse_api_requests", "Answers of the API", ["route", "status"], registry=self.registry
        )
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
        from lakehouse_lib.care import health  # brings pyspark's modules along, and the service starts without

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
    def refused(request: Request) -> Response | None:
        """Why a request is not looked at."""
        length = request.headers.get("content-length", "")
        if local and not _is_loopback(_named(request)):  # a page that a browser shows has a name of its own
            return answers.refusal(request, 400, "wrong_host", "Ask for http://127.0.0.1 or http://localhost.")
        if request.method == "POST" and not (length.isdecimal() and int(length) <= LARGEST_BODY):
            status, code = (413, "too_long") if length else (411, "no_length")
            return answers.refusal(request, status, code, f"Send a body of at most {LARGEST_BODY} bytes.")
        given = request.headers.get("authorization", "").encode()
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()) and not _open(request.url.path):
            answer = answers.refusal(request, 401, "no_token", "Send the header Authorization: Bearer <token>.")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return None

    @app.middleware("http")
    async def around(request: Request, call_next: Callable[..., Any]) -> Response:
        request.state.id, began = uuid.uuid4().hex, time.perf_counter()
        try:
            answer = refused(request) or await call_next(request)
        except Exception as error:
            log.error("request %s failed", request.state.id, exc_info=error)
            text = "The request failed; the service's log says more under its id."
            answer = answers.refusal(request, 500, "internal", text)
        route = getattr(request.scope.get("route"), "path", "other")
        state.requests.labels(route, answer.status_code).inc()
        state.seconds.labels(route).observe(time.perf_counter() - began)
        answer.headers["X-Request-ID"] = request.state.id
        return answer

    if settings.api_cors_origins:  # outermost: a browser asks for its permission without a token
        app.add_middleware(CORSMiddleware, allow_origins=settings.api_cors_origins, allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"])  # fmt: skip


def _named(request: Request) -> str:
    """The host that a request says it is for, without its port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _open(path: str) -> bool:
    """Whether it is answered without a token: the state, and the description, which holds no data."""
    return path in ("/health", "/docs", "/openapi.json") or path.startswith(f"{ASSETS}/")


def _errors(app: FastAPI) -> None:
    @app.exception_handler(sandbox.Denied)
    async def denied(request: Request, error: sandbox.Denied) -> Response:
        answer = answers.refusal(request, STATUS.get(error.code, 400), error.code, str(error))
        if error.code == "busy":
            answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(LakehouseError)
    async def known(request: Request, error: LakehouseError) -> Response:
        for kind, status, code in ERRORS:
            if isinstance(error, kind):
                return answers.refusal(request, status, code, str(error))
        log.warning("request %s: %s", request.state.id, error)
        text = "The table cannot be read; the service's log says more."
        return answers.refusal(request, 503, "unreadable", text)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return answers.refusal(request, 422, "wrong_request", said)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        answer = answers.refusal(request, error.status_code, "refused", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer


def _routes(app: FastAPI, state: _State, settings: Settings) -> None:
    def reading() -> Iterator[None]:
        with state.place():
            yield

    # Free before the answer is sent, for the next request of the same client.
    place = [Depends(reading, scope="function")]
    of_all: dict[str, Any] = {"dependencies": place, "responses": _problems(422, 429, 503)}
    of_one: dict[str, Any] = {"dependencies": place, "responses": _problems(404, 422, 429, 503)}
    rows = {200: {"model": answers.Rows, "content": {answers.CSV: {}, answers.ARROW: {}}}}
    of_rows: dict[str, Any] = {
        "dependencies": place,
        "response_class": Response,
        "responses": rows | _problems(404, 408, 411, 413, 422, 429, 503),
    }
    _add_state(app, state, settings)
    _add_catalog(app, settings, of_all, of_one)
    _add_tables(app, settings, of_one, of_rows)
    _add_query(app, state, settings, of_rows)


def _add_state(app: FastAPI, state: _State, settings: Settings) -> None:
    @app.get("/health", tags=["state"], response_model=Health, responses={503: {"model": Health}})
    def get_health() -> Any:
        """Whether the lakehouse can be read, and how it is; 503 if it cannot."""
        try:
            made = state.report()
        except Exception as error:
            log.error("the health cannot be told", exc_info=error)
            return JSONResponse({"status": "unreadable", "version": VERSION}, 503)
        unreadable = bool(made.states) and not made.rows and made.verdict == "Degraded"
        about = Health(status="unreadable" if unreadable else "ok", version=VERSION, verdict=made.verdict,
                       checked_at=made.generated_at, checked=CHECKED, tables=made.states,
                       findings=[answers.Finding.model_validate(one) for one in made.findings])  # fmt: skip
        return JSONResponse(about.model_dump(mode="json"), 503 if unreadable else 200)

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    def get_metrics() -> Response:
        """For Prometheus: health, rows, ages, failing checks, and the API's own answers."""
        return Response(generate_latest(state.registry) + _metrics(settings, state), media_type=CONTENT_TYPE_LATEST)


def _add_catalog(app: FastAPI, settings: Settings, of_all: dict[str, Any], of_one: dict[str, Any]) -> None:
    @app.get("/catalog", tags=["catalog"], response_model=answers.Catalog, **of_all)
    def get_catalog() -> Any:
        """How many tables, rows and bytes each layer has, and every table in a line."""
        entries = list(catalog.entries(settings).values())
        layers = {
            layer: {
                "tables": sum(e.layer == layer for e in entries),
                "rows": sum(e.rows for e in entries if e.layer == layer),
                "bytes": sum(e.bytes for e in entries if e.layer == layer),
            }
            for layer in tables.LAYERS
        }
        return {"layers": layers, "tables": entries}

    @app.get("/tables", tags=["catalog"], response_model=answers.Page, **of_all)
    def get_tables(
        layer: str = "", tag: str = "", owner: str = "", q: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100, offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
    ) -> Any:  # fmt: skip
        """Tables of a layer, with a tag, of an owner, that hold words; by page."""
        found = catalog.matching(catalog.entries(settings), q)
        found = [e for e in found if layer in ("", e.layer) and (not tag or tag in e.tags) and owner in ("", e.owner)]
        return {"total": len(found), "offset": offset, "tables": found[offset : offset + limit]}

    @app.get(
        "/catalog/lineage/{name}", tags=["catalog"], response_model=answers.Lineage | list[dict[str, Any]], **of_one
    )
    def get_lineage(name: Name, format: Literal["plain", "openlineage"] = "plain") -> Any:
        """What a table is made from, what is made from it, and where its columns come from; or the jobs
        that make it and its sources, as OpenLineage has them."""
        up = lineage.upstream(settings, name)
        columns = lineage.columns(settings)
        if format == "openlineage":
            from lakehouse_lib.flow import openlineage

            return openlineage.described(settings, [one for one in up if not one.startswith("landing/")], columns)
        own = {column.partition(".")[2]: made for column, made in columns.items() if column.startswith(f"{name}.")}
        return {"table": name, "upstream": up, "downstream": lineage.downstream(settings, name), "columns": own}


def _add_tables(app: FastAPI, settings: Settings, of_one: dict[str, Any], of_rows: dict[str, Any]) -> None:
    @app.get("/tables/{name}", tags=["tables"], response_model=answers.Table, **of_one)
    def get_table(name: Name) -> Any:
        """One table: columns, owner, tags, grain, sources, state."""
        entry = catalog.describe(settings, name)
        return vars(entry) | {"columns": json.loads(entry.columns)}

    @app.get("/tables/{name}/preview", tags=["tables"], **of_rows)
    def get_preview(
        request: Request, name: Name, limit: Limit = 10, columns: Annotated[str, Query(description="by comma")] = "",
        order_by: str = "", descending: bool = False, version: Annotated[int | None, Query(ge=0, le=10**15)] = None,
    ) -> Response:  # fmt: skip
        """Some rows, as JSON, CSV or an Arrow stream (by ``Accept``)."""
        began, most = time.perf_counter(), min(limit, settings.api_max_rows)
        wanted = [column.strip() for column in columns.split(",") if column.strip()]
        rows, read = reader.preview(settings, name, version, wanted, order_by, descending, most + 1)
        return answers.rows(request, rows.slice(0, most), rows.num_rows > most, {name: read}, began)

    @app.get("/tables/{name}/history", tags=["tables"], response_model=answers.History, **of_one)
    def get_history(name: Name, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
        """Versions, newest first: when, by which operation and run, rows and their change."""
        from lakehouse_lib.catalog import history

        table = tables.get(settings, name)
        history.opened(settings, table)
        found = history.versions(settings, table).head(limit)
        return {"table": name, "versions": found.to_dict("records")}

    @app.get("/tables/{name}/quality", tags=["tables"], response_model=answers.Quality, **of_one)
    def get_quality(name: Name) -> Any:
        """The last result of each check. Keys of failing rows are data, and are not given here."""
        tables.get(settings, name)
        return {"table": name, "checks": list(quality.latest(settings).get(name, {}).values())}


def _add_query(app: FastAPI, state: _State, settings: Settings, of_rows: dict[str, Any]) -> None:
    @app.post("/query", tags=["query"], **of_rows)
    def post_query(request: Request, asked: answers.Asked) -> Response:
        """The answer of one SELECT, in Spark SQL or DuckDB's, over the tables by name or ``layer.name``."""
        began = time.perf_counter()
        known = {t.name: (t.layer, delta.table_path(settings, t)) for t in tables.declared(settings).values()}
        seconds = min(asked.timeout_ms, settings.api_timeout_ms) / 1000
        most = min(asked.limit, settings.api_max_rows)
        found = state.pool.ask({
            "sql": asked.sql, "dialect": asked.dialect, "version": asked.version, "limit": most,
            "bytes": LARGEST_ANSWER, "tables": sandbox.tables_for(asked.sql, known),
            "catalog": _catalog(settings, asked.sql),
        }, seconds)  # fmt: skip
        return answers.rows(request, found.rows, found.truncated, found.versions, began)


def _catalog(settings: Settings, sql: str) -> list[dict[str, Any]] | None:
    """The catalog's lines for a query that mentions them."""
    if not any(name in sql.lower() for name in reader.CATALOG):
        return None
    return [
        line | {"updated_at": line["updated_at"] and line["updated_at"].isoformat()} for line in catalog.lines(settings)
    ]


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Statuses that a request may be refused with, beside that of a missing token."""
    return {code: {"model": answers.Problem} for code in (400, 401, *codes)}


def _metrics(settings: Settings, state: _State) -> bytes:
    from lakehouse_lib.care import health, probes

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
        opened = delta.opened(settings, table)
        happened, loaded = probes.newest(settings, table, opened) if opened else (None, None)
        for gauge, at in ((event, happened), (load, loaded)):
            if at is not None:
                gauge.labels(table.name).set((now - at).total_seconds())
        for severity in ("error", "warn"):
            count = sum(one.failed and one.severity == severity for one in known.get(table.name, {}).values())
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
