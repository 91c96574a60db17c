"""The engine of grpcio: grpc.aio carries the same method table. SERVING_GRPC_ENGINE=grpcio chooses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc import aio
from mlserver.grpc.server import GRPCServer
from mlserver.settings import Settings

from custom_runtime.errors import Internal, ServingError
from custom_runtime.grpc.method import (
    LONGEST_ID,
    Begin,
    CallInfo,
    Method,
    MethodTable,
    Stream,
    bind_request_id,
    wait_for_end,
)
from custom_runtime.grpc.port import AGE_SPREAD, COUNTED, GOAWAY_WAIT_S, CallCounts, connections, stop_accepting
from custom_runtime.network.sockets import is_inherited
from custom_runtime.network.tls import read_certificates
from custom_runtime.network.tokens import TokenInterceptor, read_tokens
from custom_runtime.settings import ServingSettings

SEE_OFF_TICK_S = 0.05


class GrpcioListener(GRPCServer):  # type: ignore[misc]
    """MLServer's gRPC server with our methods, and no interceptor: the methods observe by themselves."""

    def __init__(
        self, settings: Settings, data_plane: Any, handlers: Any, methods: MethodTable, serving: ServingSettings
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        self._serving = serving
        self._tokens = read_tokens(serving)
        self._certificates = read_certificates(serving)
        self._methods = methods
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
            self._methods.close()

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
        services: dict[str, dict[str, Any]] = {}
        for path, method in self._methods.by_path.items():
            service, _, name = path[1:].partition("/")
            services.setdefault(service, {})[name] = handler(method)
        for service, handlers in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        address = f"{self._settings.host}:{self._settings.grpc_port}"
        if self._certificates:
            self._server.add_secure_port(address, self._certificates.for_grpc())
        else:
            self._server.add_insecure_port(address)
        return self._server

    async def wait_for_clients(self) -> None:
        """Accept no connection, and wait until each one has left by its age; its requests are still answered."""
        port, age_s = self._settings.grpc_port, self._serving.grpc_connection_age_s
        if not age_s or not self._serving.drain_delay_s:
            return
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + age_s * AGE_SPREAD + GOAWAY_WAIT_S
        stop_accepting(port)
        while connections(port) and loop.time() < deadline_s:  # noqa: ASYNC110 (nothing reports when one leaves)
            await asyncio.sleep(SEE_OFF_TICK_S)

    async def stop(self, sig: int | None = None) -> None:
        """Refuse new calls, and let those in flight end within their deadline."""
        self._methods.close_streams()
        await self._server.stop(grace=self._serving.deadline_ms / 1000 + 1)


def handler(method: Method) -> Any:
    """Return grpc's handler of a method: bytes in, bytes out."""
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(_streaming(method.stream))
    if method.begin is not None:
        return grpc.unary_unary_rpc_method_handler(_inferring(method.begin))
    return grpc.unary_unary_rpc_method_handler(_plain(method.unary))


def _plain(unary: Any) -> Any:
    async def answer(message: bytes, context: aio.ServicerContext) -> Any:
        info = await _begin(context)
        try:
            return await unary(message, info)
        except ServingError as error:
            return await abort(context, error)

    return answer


def _inferring(begin: Begin) -> Any:
    async def answer(message: bytes, context: aio.ServicerContext) -> Any:
        info = call_info(context)
        bind_request_id(info)
        try:
            pending = begin(message, info)
            await _send_headers(context, info, pending.headers)
            try:
                await wait_for_end(pending)
            except asyncio.CancelledError:
                remaining_s = context.time_remaining()
                pending.leave(is_late=remaining_s is not None and remaining_s <= 0)
                raise
            return pending.finish()
        except ServingError as error:
            return await abort(context, error)

    return answer


def _streaming(stream: Stream) -> Any:
    async def answer(messages: AsyncIterator[bytes], context: aio.ServicerContext) -> AsyncIterator[bytes]:
        info = await _begin(context)
        try:
            async for message in stream(messages, info):
                yield message
        except ServingError as error:
            await abort(context, error)

    return answer


async def _begin(context: aio.ServicerContext) -> CallInfo:
    info = call_info(context)
    bind_request_id(info)
    await _send_headers(context, info, ())
    return info


async def _send_headers(context: aio.ServicerContext, info: CallInfo, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Send the metadata that an answer begins with, where there is any."""
    pairs = [(name.decode(), value.decode()) for name, value in headers]
    if info.request_id:
        pairs.append(("x-request-id", info.request_id))
    if pairs:
        await context.send_initial_metadata(tuple(pairs))


def call_info(context: aio.ServicerContext) -> CallInfo:
    """Return what a call says beside its messages."""
    remaining_s = context.time_remaining()
    metadata = dict(context.invocation_metadata() or ())
    request_id = str(metadata.get("x-request-id", ""))
    return CallInfo(
        None if remaining_s is None else time.monotonic() + remaining_s,
        request_id if len(request_id) <= LONGEST_ID else "",
        str(metadata.get("traceparent", "")),
    )


async def abort(context: aio.ServicerContext, error: ServingError) -> Any:
    """End a call with the status of an error, and its code as the trailing metadata `error-code`."""
    context.set_trailing_metadata((("error-code", error.code),))
    details = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    await context.abort(getattr(grpc.StatusCode, error.grpc), details)
