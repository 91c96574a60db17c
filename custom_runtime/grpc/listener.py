"""MLServer's gRPC listener with what it lacks for production: limits, tokens, TLS, an end without loss.

What gRPC's server does not offer: to accept no more connections, and to know how many are left.

A call that arrives after gRPC's server began to stop, and before its client has read GOAWAY, is cancelled unseen. Only
a connection that ends by its age says goodbye in two steps, which lose nothing. So connections are given an age, the
door is closed, and the server stops when the last one has left (Linux only: it looks through this process's files).
gRPC logs the closed door as an error of its own: "Closing acceptor. Failed accept4: Invalid argument".

How many calls gRPC took in and how many got a status: the difference it cancelled itself, and no servicer saw them.

gRPC counts them for channelz, its own introspection. The function is the one that the package grpcio-channelz calls;
the package itself would bring a second service and another protobuf for two numbers.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpc import aio
from mlserver.grpc import model_repository_pb2
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.model_repository_pb2_grpc import add_ModelRepositoryServiceServicer_to_server
from mlserver.grpc.server import GRPCServer
from mlserver.settings import Settings

from custom_runtime.grpc.port import AGE_SPREAD, COUNTED, GOODBYE_S, CallCounts, connections, stop_accepting
from custom_runtime.grpc.servicer import (
    INFERENCE,
    REPOSITORY,
    REPOSITORY_METHODS,
    LockedRepositoryServicer,
    TabularServicer,
    readable_methods,
)
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.sockets import is_inherited
from custom_runtime.network.tls import read_certificates
from custom_runtime.network.tokens import TokenInterceptor, read_tokens
from custom_runtime.settings import ServingSettings

SEE_OFF_TICK_S = 0.05


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
        counting = asyncio.create_task(CallCounts(self._serving.predictor).follow())
        try:
            await self._server.wait_for_termination()
        finally:
            counting.cancel()

    def _create_server(self) -> aio.Server:
        limit_bytes = self._serving.max_body_bytes
        options = [
            # MLServer's own limit goes: of two, gRPC takes the first.
            *(option for option in self._get_options() if "message_length" not in option[0]),
            ("grpc.max_receive_message_length", limit_bytes),
            ("grpc.max_send_message_length", limit_bytes),
            # Several workers share the port; a single one must find it free.
            ("grpc.so_reuseport", int(is_inherited())),
            COUNTED,
        ]
        # Calls that wait do so in gRPC, where nobody sees or times them: gRPC cancels those that are too many. A limit
        # of streams for each connection would not do: clients that keep to it are still refused 2 % of their calls.
        options += [
            ("grpc.server.max_pending_requests", self._serving.grpc_max_waiting),
            ("grpc.server.max_pending_requests_hard_limit", self._serving.grpc_max_waiting),
        ]
        if self._serving.grpc_connection_age_s:
            options.append(("grpc.max_connection_age_ms", int(self._serving.grpc_connection_age_s * 1000)))
        gates = [TokenInterceptor(self._tokens)] if self._tokens else []
        self._server = aio.server(ThreadPoolExecutor(max_workers=1), options=options, interceptors=gates)
        servicer = TabularServicer(
            self._data_plane, self._model_repository_handlers, self._models, admin_api=self._serving.admin_api
        )
        add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_registered_method_handlers(INFERENCE, servicer.methods())
        repository = (ModelRepositoryServicer if self._serving.admin_api else LockedRepositoryServicer)(
            self._model_repository_handlers
        )
        add_ModelRepositoryServiceServicer_to_server(repository, self._server)
        self._server.add_registered_method_handlers(
            REPOSITORY, readable_methods(repository, model_repository_pb2, REPOSITORY_METHODS)
        )
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        if self._certificates:
            self._server.add_secure_port(address, self._certificates.for_grpc())
        else:
            self._server.add_insecure_port(address)
        return self._server

    async def wait_for_clients(self) -> None:
        """Accept no connection, and wait until every one has left by its age; what it still asks is answered."""
        port, age_s = self._settings.grpc_port, self._serving.grpc_connection_age_s
        if not age_s:
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + age_s * AGE_SPREAD + GOODBYE_S
        stop_accepting(port)
        while connections(port) and loop.time() < deadline_s:  # noqa: ASYNC110 (nobody tells when one leaves)
            await asyncio.sleep(SEE_OFF_TICK_S)

    async def stop(self, sig: int | None = None) -> None:
        """Refuse new calls, and let those in flight end within their deadline."""
        await self._server.stop(grace=self._serving.deadline_ms / 1000 + 1)
