"""A port for the tests of our own gRPC engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from custom_runtime.grpc.http2_listener import Http2Listener
from custom_runtime.settings import ServingSettings
from tests.support.grpc_port import Listening, Methods, Port
from tests.support.programs import free_port


@pytest.fixture
def listening() -> Listening:
    """Open a port with the settings given, within a block."""

    @asynccontextmanager
    async def opened(**settings: object) -> AsyncIterator[Port]:
        methods, number = Methods(), free_port()
        serving = ServingSettings(**{"deadline_ms": 10_000.0, **settings})  # type: ignore[arg-type]
        listener = Http2Listener("127.0.0.1", number, methods, serving)
        running = asyncio.create_task(listener.start())
        await listener.started.wait()
        try:
            yield Port(number, methods, listener)
        finally:
            for work in methods.works:
                work.future.cancel()
            await listener.stop()
            await running

    return opened


@pytest.fixture
async def port(listening: Listening) -> AsyncIterator[Port]:
    """A port as it is by default."""
    async with listening() as opened:
        yield opened
