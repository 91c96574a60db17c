"""MLServer's three listeners (REST, gRPC, metrics), each with what it lacks for production.

uvicorn 0.29 and later installs its own signal handlers inside `serve()`: with three servers in one process they would
fight over SIGTERM, so none of them may.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from grpc import aio
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.model_repository_pb2_grpc import add_ModelRepositoryServiceServicer_to_server
from mlserver.grpc.server import GRPCServer
from mlserver.metrics.server import MetricsServer
from mlserver.rest.server import RESTServer
from mlserver.settings import Settings

from custom_runtime.access import read_tokens
from custom_runtime.asgi import App
from custom_runtime.grpc_port import AGE_SPREAD, GOODBYE_S, close_door, connections
from custom_runtime.models import LoadedModels
from custom_runtime.rest import FastRoutes
from custom_runtime.rpc import INFERENCE, ChurnServicer, LockedRepositoryServicer
from custom_runtime.settings import ServingSettings
from custom_runtime.slow_clients import SlowClients
from custom_runtime.tls import read_certificates
from custom_runtime.token_gate import TokenGate, TokenInterceptor
from custom_runtime.translation import unify_errors

# Load balancers keep idle connections for a minute; the side that closes first should not be ours.
KEEP_ALIVE_S = 75
BACKLOG = 2048
# A client on a bad line sends the head of a request in one or two packets; one that takes this long means harm.
HEADERS_S = 10.0
# uvicorn closes connections without a request at once; what a client has just sent on one needs a moment to be read.
LAST_REQUESTS_S = 0.25
# uvicorn waits without end for the last answers; a pod that is killed after its grace period says less.
SHUTDOWN_S = 15
SEE_OFF_TICK_S = 0.05
# Set by the supervisor: the file descriptor of a bound socket. It stays open there, so that the connections that
# wait on it outlive this process.
LISTEN_FD = "CHURN_LISTEN_FD"


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers of its own; tells when its port answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()
        self._slow_clients = SlowClients(headers_s=HEADERS_S, idle_s=KEEP_ALIVE_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        await super().startup(sockets)
        self.answering.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, wait for the requests of connections that were just accepted, then end."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_REQUESTS_S)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if counter % 10 == 0:
            self._slow_clients.sweep(self.server_state.connections, asyncio.get_running_loop().time())  # type: ignore[arg-type]
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield


class RestListener(RESTServer):  # type: ignore[misc]
    """MLServer's REST server behind the fast routes, with one shape of error everywhere."""

    def __init__(
        self, settings: Settings, data_plane: Any, handlers: Any, models: LoadedModels, serving: ServingSettings
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        unify_errors(self._app)
        _close_side_doors(self._app)
        tokens, certificates = read_tokens(serving), read_certificates(serving)
        app: App = FastRoutes(self._app, models, serving, root_path=settings.root_path)
        if tokens is not None:
            app = TokenGate(app, tokens, root_path=settings.root_path)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,  # nobody here asks for the client's address
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
            root_path=settings.root_path,
            **(certificates.for_rest() if certificates else {}),
            **(settings._custom_rest_server_settings or {}),
        )
        self._server = _Uvicorn(config)
        self.started = self._server.answering

    async def start(self) -> None:
        """Serve until stop()."""
        await self._server.serve(sockets=[listener_socket(self._settings.host, self._settings.http_port)])


class MetricsListener(MetricsServer):  # type: ignore[misc]
    """MLServer's metrics server, with the signals left alone."""

    async def start(self) -> None:
        """Serve until stop()."""
        config = uvicorn.Config(
            self._app,
            host=self._settings.host,
            port=self._settings.metrics_port,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
        )
        self._server = _Uvicorn(config)
        await self._server.serve()


class GrpcListener(GRPCServer):  # type: ignore[misc]
    """MLServer's gRPC server with our servicer, and no interceptor: the servicer observes by itself."""

    def __init__(
        self, settings: Settings, data_plane: Any, handlers: Any, models: LoadedModels, serving: ServingSettings
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        self._models = models
        self._serving = serving
        self._tokens = read_tokens(serving)
        self._certificates = read_certificates(serving)
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Serve until stop()."""
        self._create_server()
        await self._server.start()
        self.started.set()
        await self._server.wait_for_termination()

    def _create_server(self) -> aio.Server:
        limit_bytes = self._serving.max_body_bytes
        options = [
            # MLServer's own limit goes: of two, gRPC takes the first.
            *(option for option in self._get_options() if "message_length" not in option[0]),
            ("grpc.max_receive_message_length", limit_bytes),
            ("grpc.max_send_message_length", limit_bytes),
            # Several workers share the port; a single one must find it free.
            ("grpc.so_reuseport", int(LISTEN_FD in os.environ)),
        ]
        if self._serving.grpc_connection_age_s:
            options.append(("grpc.max_connection_age_ms", int(self._serving.grpc_connection_age_s * 1000)))
        gates = [TokenInterceptor(self._tokens)] if self._tokens else []
        self._server = aio.server(ThreadPoolExecutor(max_workers=1), options=options, interceptors=gates)
        servicer = ChurnServicer(
            self._data_plane, self._model_repository_handlers, self._models, admin_api=self._serving.admin_api
        )
        add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_registered_method_handlers(INFERENCE, servicer.guarded_methods())
        repository = ModelRepositoryServicer if self._serving.admin_api else LockedRepositoryServicer
        add_ModelRepositoryServiceServicer_to_server(repository(self._model_repository_handlers), self._server)
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        if self._certificates:
            self._server.add_secure_port(address, self._certificates.for_grpc())
        else:
            self._server.add_insecure_port(address)
        return self._server

    async def see_off(self) -> None:
        """Accept no connection, and wait until every one has left by its age; what it still asks is answered."""
        port, age_s = self._settings.grpc_port, self._serving.grpc_connection_age_s
        if not age_s:
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + age_s * AGE_SPREAD + GOODBYE_S
        close_door(port)
        while connections(port) and loop.time() < deadline_s:
            await asyncio.sleep(SEE_OFF_TICK_S)

    async def stop(self, sig: int | None = None) -> None:
        """Refuse new calls, and let those in flight end within their deadline."""
        await self._server.stop(grace=self._serving.deadline_ms / 1000 + 1)


def _close_side_doors(app: Any) -> None:
    """Take away MLServer's routes that answer beside our checks, counts and pages.

    `generate` and the streams are for language models (a failed stream ends as a cut 200), its documentation pages
    load scripts from another site, and its redirects lead to whatever host the client named.
    """
    app.router.redirect_slashes = False
    closed = ("/generate", "/infer_stream", "/generate_stream", "/docs", "/docs/dataplane.json")
    app.router.routes[:] = [route for route in app.router.routes if not route.path.endswith(closed)]


def listener_socket(host: str, port: int) -> socket.socket:
    """Return the socket that REST listens on: the one that a supervisor handed down, or a new one. Raises OSError."""
    inherited = os.environ.get(LISTEN_FD)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    return bound_socket(host, port, share=False)


def bound_socket(host: str, port: int, *, share: bool) -> socket.socket:
    """Return a bound TCP socket; share: others may bind the same port (SO_REUSEPORT). Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} is not free: {error.strerror}") from error
    return listener
