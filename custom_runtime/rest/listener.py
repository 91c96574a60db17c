"""MLServer's listeners on uvicorn (REST and metrics), each with what it lacks for production.

uvicorn 0.29 and later installs its own signal handlers inside `serve()`. With three servers in one process they would
conflict over SIGTERM, so all of them are disabled.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from mlserver.metrics.server import MetricsServer
from mlserver.rest.server import RESTServer
from mlserver.settings import Settings

from custom_runtime.loaded_models import LoadedModels
from custom_runtime.metrics import observe_event_loop
from custom_runtime.network.cors import read_cors
from custom_runtime.network.observing import RequestObserver
from custom_runtime.network.sockets import BACKLOG, bound_socket, is_inherited, listener_socket, refuse_handshakes
from custom_runtime.network.tls import read_certificates
from custom_runtime.network.tokens import read_tokens
from custom_runtime.rest.error_translation import unify_errors
from custom_runtime.rest.hot_routes import HotRoutes
from custom_runtime.rest.http_protocol import LAST_REQUEST_S, HttpProtocol
from custom_runtime.rest.http_service import HttpService
from custom_runtime.rest.routes import Routes
from custom_runtime.settings import ServingSettings

# At its end: how often it looks whether a request may still come, and how many times at least.
_PAUSE_S = 0.05
_FEWEST_PAUSES = 5
# uvicorn waits without end for the last answers; a pod that is killed after its grace period says less.
SHUTDOWN_S = 15


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers of its own; it reports when its port answers."""

    def __init__(self, config: uvicorn.Config, service: HttpService) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        await super().startup(sockets)
        self.answering.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections, wait for the requests of the newest ones, then end."""
        if sockets and not is_inherited():
            for listener in sockets:
                refuse_handshakes(listener)
        else:  # what waits in the queue of a supervisor's socket is another worker's
            for server in self.servers:
                server.close()
        # uvicorn closes connections without a request at once. Short waits: what a client has sent needs a moment to
        # be read, and a loop that stood still for the whole of one long wait would have read nothing.
        for number in range(round(LAST_REQUEST_S / _PAUSE_S)):
            if number >= _FEWEST_PAUSES and not self._may_be_asked():
                break
            await asyncio.sleep(_PAUSE_S)
        await super().shutdown(sockets)

    def _may_be_asked(self) -> bool:
        now_s = self._service.clock()
        return any(connection.may_ask(now_s) for connection in self.server_state.connections)  # type: ignore[union-attr]

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if counter % 10 == 0:
            now_s = self._service.clock()
            for connection in list(self.server_state.connections):
                connection.sweep(now_s)  # type: ignore[union-attr]
            observe_event_loop()
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield


class RestListener(RESTServer):  # type: ignore[misc]
    """MLServer's REST server behind the fast routes, with one shape of error everywhere."""

    def __init__(
        self,
        settings: Settings,
        data_plane: Any,
        handlers: Any,
        models: LoadedModels,
        serving: ServingSettings,
        observer: RequestObserver | None = None,
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        unify_errors(self._app)
        _close_side_doors(self._app)
        tokens, certificates = read_tokens(serving), read_certificates(serving)
        service = HttpService(
            settings=serving,
            models=models,
            hot=HotRoutes(models) if serving.fast_routes else None,
            tokens=tokens,
            cors=read_cors(settings),
            observer=observer,
            root_path=settings.root_path,
        )
        config = uvicorn.Config(
            Routes(self._app, models, serving, root_path=settings.root_path),
            http=partial(HttpProtocol, service=service),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="off",  # MLServer's app has none; uvicorn's task of it would log the end of a start that failed
            proxy_headers=False,  # the client's address is not used
            backlog=BACKLOG,
            timeout_graceful_shutdown=SHUTDOWN_S,
            root_path=settings.root_path,
            **(certificates.for_rest() if certificates else {}),
            **(settings._custom_rest_server_settings or {}),
        )
        self._server = _Uvicorn(config, service)
        self.started = self._server.answering

    async def start(self) -> None:
        """Serve until stop()."""
        await self._server.serve(sockets=[listener_socket(self._settings.host, self._settings.http_port)])


class MetricsListener(MetricsServer):  # type: ignore[misc]
    """MLServer's metrics server, with the signals left alone."""

    async def start(self) -> None:
        """Serve until stop()."""
        service = HttpService(settings=ServingSettings(), models=LoadedModels())
        config = uvicorn.Config(
            self._app,
            http=partial(HttpProtocol, service=service),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="off",
        )
        self._server = _Uvicorn(config, service)
        await self._server.serve(sockets=[bound_socket(self._settings.host, self._settings.metrics_port, share=False)])


def _close_side_doors(app: Any) -> None:
    """Take away MLServer's routes that answer beside our checks, counts and pages.

    `generate` and the streams are for language models (a failed stream ends as a cut 200), its documentation pages
    load scripts from another site, and its redirects lead to whatever host the client named.
    """
    app.router.redirect_slashes = False
    closed = ("/generate", "/infer_stream", "/generate_stream", "/docs", "/docs/dataplane.json")
    app.router.routes[:] = [route for route in app.router.routes if not route.path.endswith(closed)]
