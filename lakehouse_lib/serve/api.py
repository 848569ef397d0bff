"""The REST API: which tables exist, their contents, their lineage and their health.

This module decides who may ask and how errors are answered; `routes` has the answers. No response contains a path, a
stack trace or a secret.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError, NotMadeError, UnknownTableError
from lakehouse_lib.serve import answers, routes, sandbox
from lakehouse_lib.serve.routes import State

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "LAKEHOUSE_API_TOKEN"
LARGEST_BODY = 64 * 1024
"""Maximum size of a request body in bytes."""
STATUS = {"timeout": 408, "busy": 429, "too_large": 413, "too_long": 413, "no_such_table": 404, "not_made": 404}
"""HTTP status by the code of a denied query; every other code is 400."""

ERRORS = (
    (UnknownTableError, 404, "no_such_table"),
    (NotMadeError, 404, "not_made"),
    (ConfigError, 400, "wrong_request"),
)
"""HTTP status and code of the errors that the client can act on; all others are 503."""

ASSETS = "/assets"
"""Path of the script and style of the documentation page."""


def build(settings: Settings, token: str = "", host: str = "127.0.0.1") -> FastAPI:
    """Return the application.

    Raises
    ------
    ConfigError
        The API would be reachable from other machines without a token.
    """
    loopback = _is_loopback(host)
    if not loopback and not token:
        raise ConfigError(
            f"The API on {host} can be reached from other machines and needs a token: set {TOKEN_VARIABLE}, "
            "or bind it to 127.0.0.1."
        )
    security = [Security(HTTPBearer(auto_error=False))] if token else []  # for OpenAPI; `_middleware` checks it
    app = FastAPIOffline(title="Lakehouse", version=routes.VERSION, description=__doc__.split("\n\n")[0],
                         redoc_url=None, static_url=ASSETS, dependencies=security)  # fmt: skip
    state = State(settings)
    app.state.close = state.pool.close
    _middleware(app, state, settings, token, loopback)
    _errors(app)
    routes.add(app, state, settings)
    return app


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _middleware(app: FastAPI, state: State, settings: Settings, token: str, loopback: bool) -> None:
    def refusal(request: Request) -> Response | None:
        """Return the response that rejects a request before it is routed; None if it is let through."""
        length = request.headers.get("content-length", "")
        if loopback and not _is_loopback(_requested_host(request)):  # against DNS rebinding
            return answers.refusal(request, 400, "wrong_host", "Use http://127.0.0.1 or http://localhost.")
        if request.method == "POST" and not (length.isdecimal() and int(length) <= LARGEST_BODY):
            status, code = (413, "too_long") if length else (411, "no_length")
            return answers.refusal(request, status, code, f"Send a body of at most {LARGEST_BODY} bytes.")
        authorization = request.headers.get("authorization", "").encode()
        if (
            token
            and not hmac.compare_digest(authorization, f"Bearer {token}".encode())
            and not _is_public(request.url.path)
        ):
            response = answers.refusal(request, 401, "no_token", "Send the header Authorization: Bearer <token>.")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        return None

    app.add_middleware(_Outermost, state=state, refusal=refusal)
    if settings.api_cors_origins:  # outermost: browsers send preflight requests without a token
        app.add_middleware(CORSMiddleware, allow_origins=settings.api_cors_origins, allow_methods=["GET", "POST"],
                           allow_headers=["Authorization", "Content-Type"])  # fmt: skip


class _Outermost:
    """Gives each request an id, lets it through or rejects it, counts it, and answers for errors."""

    def __init__(self, app: ASGIApp, state: State, refusal: Callable[[Request], Response | None]):
        self.app, self.state, self.refusal = app, state, refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, began, status = Request(scope), time.perf_counter(), 0
        request.state.id = uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request.state.id
            await send(message)

        try:
            await (self.refusal(request) or self.app)(scope, receive, send_with_id)
        except Exception as error:
            log.error("request %s failed", request.state.id, exc_info=error)
            if status:
                raise  # too late for another response
            message = "The request failed; see the service's log under its id."
            await answers.refusal(request, 500, "internal", message)(scope, receive, send_with_id)
        route = getattr(scope.get("route"), "path", "other")
        self.state.requests.labels(route, status).inc()
        self.state.seconds.labels(route).observe(time.perf_counter() - began)


def _requested_host(request: Request) -> str:
    """Return the host in the request's Host header, without the port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_public(path: str) -> bool:
    """Return whether no token is needed: for the health, and for the documentation, which contains no data."""
    return path in ("/health", "/docs", "/openapi.json") or path.startswith(f"{ASSETS}/")


def _errors(app: FastAPI) -> None:
    @app.exception_handler(sandbox.Denied)
    async def query_denied(request: Request, error: sandbox.Denied) -> Response:
        response = answers.refusal(request, STATUS.get(error.code, 400), error.code, str(error))
        if error.code == "busy":
            response.headers["Retry-After"] = "1"
        return response

    @app.exception_handler(LakehouseError)
    async def library_error(request: Request, error: LakehouseError) -> Response:
        for error_type, status, code in ERRORS:
            if isinstance(error, error_type):
                return answers.refusal(request, status, code, str(error))
        log.warning("request %s: %s", request.state.id, error)
        message = "The table cannot be read; see the service's log."
        return answers.refusal(request, 503, "unreadable", message)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        message = "; ".join(f"{'.'.join(map(str, issue['loc'][1:]))}: {issue['msg']}" for issue in error.errors())
        return answers.refusal(request, 422, "wrong_request", message)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        response = answers.refusal(request, error.status_code, "refused", str(error.detail))
        response.headers.update(error.headers or {})
        return response


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until stopped.

    Raises
    ------
    ConfigError
        A token is missing, or the port is taken.
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
                f"The API cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
            ) from None
    print(f"API: http://{host}:{port}, documentation: http://{host}:{port}/docs", flush=True)
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)
    finally:
        app.state.close()
