"""The routes of the REST API.

Responses come from `reader`, `catalog`, `health` and `lineage`, without an engine. Names are looked up in the catalog
and never become part of a path.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lakehouse_lib.catalog import catalog, lineage, rules
from lakehouse_lib.config import Settings
from lakehouse_lib.model import tables
from lakehouse_lib.serve import answers, sandbox
from lakehouse_lib.serve.answers import Health
from lakehouse_lib.serve.pool import Pool, tables_for
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality

if TYPE_CHECKING:
    from lakehouse_lib.care.health import Report

log = logging.getLogger(__name__)

VERSION = metadata.version("lakehouse-workbook")
FRESH = 10.0
"""Seconds for which a health report is reused."""

PROCESSES = 2
"""Processes that run queries: one per core of a small machine."""
LARGEST_ANSWER = 16 * 2**20
"""Maximum size of the rows of a response in bytes."""
CHECKED = ["tables", "runs", "ledger", "checks", "freshness", "volume", "clock", "files", "logs"]

Limit = Annotated[int, Query(ge=1, le=10**9, description="maximum number of rows")]
Name = Annotated[str, Path(description="a table of the catalog", examples=["users_silver"])]


class State:
    """What requests share: counters, slots for reading tables, the latest health report."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.pool = Pool(PROCESSES)
        self.slots = threading.BoundedSemaphore(settings.api_at_once)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lakehouse_api_requests", "Responses of the API", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram("lakehouse_api_request_seconds", "Time to respond", ["route"], registry=self.registry)
        self._report_lock = threading.Lock()
        self._report: tuple[float, Report] | None = None

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the slots for reading tables; 429 if none is free."""
        if not self.slots.acquire(blocking=False):
            raise sandbox.Denied("busy", "Too many requests are reading tables at once; try again.")
        try:
            yield
        finally:
            self.slots.release()

    def report(self) -> Report:
        """The health report, renewed when it is older than `FRESH` seconds."""
        from lakehouse_lib.care import health  # imports pyspark, which the service does not need to start

        known = self._report
        # While one request renews the report, the others get the last one.
        if (known is None or time.monotonic() - known[0] > FRESH) and self._report_lock.acquire(blocking=known is None):
            try:
                if self._report is known:
                    self._report = time.monotonic(), health.report(self.settings)
            finally:
                self._report_lock.release()
        assert self._report is not None, "the first report is waited for"
        return self._report[1]


def add(app: FastAPI, state: State, settings: Settings) -> None:
    """Add all routes to the application."""

    async def hold_slot() -> AsyncIterator[None]:  # it does not wait, so it needs no thread
        with state.slot():
            yield

    # Released before the response is sent, so that the client's next request finds it free.
    dependencies = [Depends(hold_slot, scope="function")]
    for_list: dict[str, Any] = {"dependencies": dependencies, "responses": _problems(422, 429, 503)}
    for_table: dict[str, Any] = {"dependencies": dependencies, "responses": _problems(404, 422, 429, 503)}
    rows_response = {200: {"model": answers.Rows, "content": {answers.CSV: {}, answers.ARROW: {}}}}
    for_rows: dict[str, Any] = {
        "dependencies": dependencies,
        "response_class": Response,
        "responses": rows_response | _problems(404, 408, 411, 413, 422, 429, 503),
    }
    _add_state(app, state, settings)
    _add_catalog(app, settings, for_list, for_table)
    _add_tables(app, settings, for_table, for_rows)
    _add_query(app, state, settings, for_rows)


def _add_state(app: FastAPI, state: State, settings: Settings) -> None:
    @app.get("/health", tags=["state"], response_model=Health, responses={503: {"model": Health}})
    def get_health() -> Any:
        """Whether the lakehouse can be read, and its health; 503 if it cannot be read."""
        try:
            report = state.report()
        except Exception as error:
            log.error("the health report failed", exc_info=error)
            return JSONResponse({"status": "unreadable", "version": VERSION}, 503)
        unreadable = bool(report.states) and not report.rows and report.verdict == "Degraded"
        health = Health(status="unreadable" if unreadable else "ok", version=VERSION, verdict=report.verdict,
                        checked_at=report.generated_at, checked=CHECKED, tables=report.states,
                        findings=[answers.Finding.model_validate(finding) for finding in report.findings])  # fmt: skip
        return JSONResponse(health.model_dump(mode="json"), 503 if unreadable else 200)

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    def get_metrics() -> Response:
        """For Prometheus: health, rows, ages, failing checks, and the API's own requests."""
        return Response(generate_latest(state.registry) + _metrics(settings, state), media_type=CONTENT_TYPE_LATEST)


def _add_catalog(app: FastAPI, settings: Settings, for_list: dict[str, Any], for_table: dict[str, Any]) -> None:
    @app.get("/catalog", tags=["catalog"], response_model=answers.Catalog, **for_list)
    def get_catalog() -> Any:
        """Tables, rows and bytes of each layer, and a summary of every table."""
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

    @app.get("/tables", tags=["catalog"], response_model=answers.Page, **for_list)
    def get_tables(
        layer: str = "", tag: str = "", owner: str = "", q: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100, offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
    ) -> Any:  # fmt: skip
        """Tables filtered by layer, tag, owner and search words, in pages."""
        hits = catalog.matching(catalog.entries(settings), q)
        hits = [e for e in hits if layer in ("", e.layer) and (not tag or tag in e.tags) and owner in ("", e.owner)]
        return {"total": len(hits), "offset": offset, "tables": hits[offset : offset + limit]}

    @app.get(
        "/catalog/lineage/{name}", tags=["catalog"], response_model=answers.Lineage | list[dict[str, Any]], **for_table
    )
    def get_lineage(name: Name, format: Literal["plain", "openlineage"] = "plain") -> Any:
        """Upstream and downstream tables, and the origin of each column; or, as OpenLineage, the jobs that
        write the table and its sources."""
        upstream = lineage.upstream(settings, name)
        columns = lineage.columns(settings)
        if format == "openlineage":
            from lakehouse_lib.flow import openlineage

            return openlineage.described(
                settings, [table for table in upstream if not table.startswith("landing/")], columns
            )
        origins = {
            column.partition(".")[2]: origin for column, origin in columns.items() if column.startswith(f"{name}.")
        }
        return {
            "table": name,
            "upstream": upstream,
            "downstream": lineage.downstream(settings, name),
            "columns": origins,
            "rules": rules.of_all(settings, upstream),
        }


def _add_tables(app: FastAPI, settings: Settings, for_table: dict[str, Any], for_rows: dict[str, Any]) -> None:
    @app.get("/tables/{name}", tags=["tables"], response_model=answers.Table, **for_table)
    def get_table(name: Name) -> Any:
        """A table: columns, owner, tags, grain, sources, state."""
        entry = catalog.describe(settings, name)
        return vars(entry) | {name: json.loads(getattr(entry, name)) for name in ("columns", "made_with")}

    @app.get("/tables/{name}/preview", tags=["tables"], **for_rows)
    def get_preview(
        request: Request, name: Name, limit: Limit = 10,
        columns: Annotated[str, Query(description="separated by commas")] = "",
        order_by: str = "", descending: bool = False, version: Annotated[int | None, Query(ge=0, le=10**15)] = None,
    ) -> Response:  # fmt: skip
        """Sample rows as JSON, CSV or an Arrow stream (by ``Accept``)."""
        began, max_rows = time.perf_counter(), min(limit, settings.api_max_rows)
        column_names = [column.strip() for column in columns.split(",") if column.strip()]
        rows, read_version = reader.preview(settings, name, version, column_names, order_by, descending, max_rows + 1)
        return answers.rows(request, rows.slice(0, max_rows), rows.num_rows > max_rows, {name: read_version}, began)

    @app.get("/tables/{name}/history", tags=["tables"], response_model=answers.History, **for_table)
    def get_history(name: Name, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
        """Versions, newest first: time, operation, run, rows and their change."""
        from lakehouse_lib.catalog import history

        table = tables.get(settings, name)
        history.opened(settings, table)
        versions = history.versions(settings, table).head(limit)
        return {"table": name, "versions": versions.to_dict("records")}

    @app.get("/tables/{name}/quality", tags=["tables"], response_model=answers.Quality, **for_table)
    def get_quality(name: Name) -> Any:
        """The latest result of each check. Keys of failing rows are data and are not exposed here."""
        tables.get(settings, name)
        return {"table": name, "checks": list(quality.latest(settings).get(name, {}).values())}


def _add_query(app: FastAPI, state: State, settings: Settings, for_rows: dict[str, Any]) -> None:
    @app.post("/query", tags=["query"], **for_rows)
    def post_query(request: Request, query: answers.Asked) -> Response:
        """The result of a single SELECT in Spark or DuckDB SQL; tables are given as ``name`` or ``layer.name``."""
        began = time.perf_counter()
        published = {
            table.name: (table.layer, delta.table_path(settings, table)) for table in tables.declared(settings).values()
        }
        seconds = min(query.timeout_ms, settings.api_timeout_ms) / 1000
        max_rows = min(query.limit, settings.api_max_rows)
        answer = state.pool.ask({
            "sql": query.sql, "dialect": query.dialect, "version": query.version, "limit": max_rows,
            "bytes": LARGEST_ANSWER, "tables": tables_for(query.sql, published),
            "catalog": _catalog(settings, query.sql),
        }, seconds)  # fmt: skip
        return answers.rows(request, answer.rows, answer.truncated, answer.versions, began)


def _catalog(settings: Settings, sql: str) -> list[dict[str, Any]] | None:
    """The rows of the catalog views, if the query mentions one."""
    if not any(name in sql.lower() for name in reader.CATALOG):
        return None
    return [
        line | {"updated_at": line["updated_at"] and line["updated_at"].isoformat()} for line in catalog.lines(settings)
    ]


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Error responses for OpenAPI: these codes, and the 400 and 401 that every route may return."""
    return {code: {"model": answers.Problem} for code in (400, 401, *codes)}


def _metrics(settings: Settings, state: State) -> bytes:
    from lakehouse_lib.care import health, probes

    registry = CollectorRegistry()
    report = state.report()
    verdict = Gauge("lakehouse_health", "0 healthy, 1 unknown, 2 warning, 3 degraded", registry=registry)
    verdict.set(health.VERDICTS.index(report.verdict))
    rows = Gauge("lakehouse_table_rows", "Rows", ["table", "layer"], registry=registry)
    event_age = Gauge("lakehouse_table_event_age_seconds", "Age of the newest event", ["table"], registry=registry)
    load_age = Gauge("lakehouse_table_load_age_seconds", "Time since the last load", ["table"], registry=registry)
    failing = Gauge("lakehouse_failing_checks", "Checks that fail", ["table", "severity"], registry=registry)
    latest_checks, now = quality.latest(settings), datetime.now(UTC)
    for table in tables.declared(settings).values():
        if table.name not in report.rows:
            continue
        rows.labels(table.name, table.layer).set(report.rows[table.name])
        delta_table = delta.opened(settings, table)
        newest_event, last_load = probes.newest(settings, table, delta_table) if delta_table else (None, None)
        for gauge, moment in ((event_age, newest_event), (load_age, last_load)):
            if moment is not None:
                gauge.labels(table.name).set((now - moment).total_seconds())
        for severity in ("error", "warn"):
            count = sum(
                check.failed and check.severity == severity for check in latest_checks.get(table.name, {}).values()
            )
            failing.labels(table.name, severity).set(count)
    return generate_latest(registry)
