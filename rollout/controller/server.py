"""The controller's port: health and metrics for the cluster, and the pages of all rollouts behind a token.

Everything is read only: there is no route that changes a rollout.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from prometheus_client import CollectorRegistry, generate_latest

from rollout.controller.history import History
from rollout.controller.overview import Entry, Overview
from rollout.engine.state import Phase
from rollout.errors import ReportError, RolloutError
from rollout.reporting.advice import commands, next_step
from rollout.reporting.charts import duration
from rollout.reporting.report import render
from rollout.targets.place import Place

REFRESH_S = 5
MOST_PAST = 100
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MOODS: Final = {
    Phase.SUCCEEDED.value: "good",
    Phase.ROLLING_BACK.value: "bad",
    Phase.ROLLED_BACK.value: "bad",
    Phase.FAILED.value: "bad",
}
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("rollout.controller", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"duration": duration}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers on one port, in a thread of its own. token: without one there are no pages, only health and metrics.

    port: 0 for a free one; `port` is the real one after `start`.
    """

    def __init__(
        self,
        overview: Overview,
        history: History,
        registry: CollectorRegistry,
        *,
        token: str,
        host: str = "0.0.0.0",  # noqa: S104 -- a pod has one address, and its policy decides who reaches it
        port: int = 8080,
    ) -> None:
        self._overview = overview
        self._history = history
        self._registry = registry
        self._token = token
        self._host = host
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stopping = asyncio.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="server", daemon=True)

    def start(self) -> None:
        """Listen. Raises RolloutError when the port is taken."""
        self._thread.start()
        self._started.wait(30)
        if self._error is not None:
            raise RolloutError(f"cannot listen on {self._host}:{self.port}: {self._error}") from self._error

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self.port)
            try:
                await site.start()
            except OSError as error:
                self._error = error
                return
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stopping.wait()
        finally:
            self._started.set()
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        if self._token:
            app.router.add_get("/", self._behind_token(self._index))
            app.router.add_get("/rollouts.json", self._behind_token(self._facts))
            app.router.add_get("/rollouts/{namespace}/{name}/{id}", self._behind_token(self._page))
        return app

    def _behind_token(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            if not hmac.compare_digest(presented(request.headers.get("Authorization", "")), self._token.encode()):
                raise web.HTTPUnauthorized(
                    text="give the token as Authorization: Bearer, or as the password with any user name\n",
                    headers={"WWW-Authenticate": 'Basic realm="rollouts", charset="UTF-8"', **HEADERS},
                )
            return await handler(request)

        return checked

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(generate_latest, self._registry)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _index(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._render_index)
        return _html(text, refresh=True)

    async def _page(self, request: web.Request) -> web.Response:
        namespace, name, rollout_id = (request.match_info[part] for part in ("namespace", "name", "id"))
        try:
            text = await asyncio.to_thread(self._render_page, namespace, name, rollout_id)
        except ReportError as error:
            raise web.HTTPNotFound(text=f"{error}\n", headers=HEADERS) from error
        running = any(entry.under_way and entry.state.id == rollout_id for entry in self._overview.entries())
        return _html(text, refresh=running)

    async def _facts(self, request: web.Request) -> web.Response:
        facts = [_facts_of(entry) for entry in self._overview.entries()]
        return web.Response(text=json.dumps(facts), content_type="application/json", headers=HEADERS)

    def _render_page(self, namespace: str, name: str, rollout_id: str) -> str:
        place = Place.in_cluster(name, namespace)
        return render(self._history.records(namespace, name, rollout_id), place=place)

    def _render_index(self) -> str:
        past = self._history.rollouts()[:MOST_PAST]
        logged = {(one.namespace, one.name, one.id) for one in past}
        entries = self._overview.entries()
        running = [entry for entry in entries if entry.under_way]
        ids = {(entry.namespace, entry.name, entry.state.id) for entry in running}
        return _ENVIRONMENT.get_template("overview.html.j2").render(
            identity=self._overview.identity,
            now_s=time.time(),
            running=[(entry, *_next(entry)) for entry in running],
            past=[one for one in past if (one.namespace, one.name, one.id) not in ids],
            unlogged=[
                entry
                for entry in entries
                if not entry.under_way and (entry.namespace, entry.name, entry.state.id) not in logged
            ],
            logged=logged,
            moods=MOODS,
            refresh_s=REFRESH_S,
        )


def presented(authorization: str) -> bytes:
    """Return the token of an Authorization header: Bearer, or the password of Basic; empty if there is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _next(entry: Entry) -> tuple[str, str]:
    state = entry.state
    place = Place.in_cluster(entry.name, entry.namespace)
    found = commands(state.phase, entry.name, stable=state.stable, canary=state.canary, place=place)
    return next_step(state), found[0].command if found else ""


def _facts_of(entry: Entry) -> dict[str, object]:
    state = entry.state
    return {
        "namespace": entry.namespace,
        "deployment": entry.name,
        "rollout": state.id,
        "phase": state.phase.value,
        "stable": state.stable,
        "canary": state.canary,
        "weights_percent": state.weights,
        "reason": state.reason,
        "message": state.message,
        "driver": entry.driver,
        "driver_since_s": entry.driver_since_s,
        "driver_seen_s": entry.driver_seen_s,
        "problem": entry.problem,
    }


def _html(text: str, *, refresh: bool) -> web.Response:
    headers = {**HEADERS, "Refresh": str(REFRESH_S)} if refresh else dict(HEADERS)
    return web.Response(text=text, content_type="text/html", headers=headers)
