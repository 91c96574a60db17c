"""Clients of a Redis Cluster are replaced: no request loses the one it reads with, none waits for an old one's end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import redis.exceptions

from custom_runtime.features.redis_link import ClusterLink
from tests.support.programs import GUARD_S


class FakeCluster:
    """A cluster client whose answers come when the test says so. A closed one fails what it has under way."""

    def __init__(self, *, broken: bool) -> None:
        self.gates: list[asyncio.Future[None]] = []
        self.broken = broken
        self.initialized = self.closed = False
        self.hangs: asyncio.Event | None = None

    async def initialize(self) -> None:
        if self.broken:
            raise ConnectionError("no node answers")
        self.initialized = True

    async def aclose(self) -> None:
        self.closed = True
        for gate in self.gates:
            if not gate.done():
                gate.set_exception(ConnectionError("the client was closed"))
        if self.hangs is not None:
            await self.hangs.wait()
            raise redis.exceptions.TimeoutError("Timed out closing connection")

    async def mget_nonatomic(self, keys: Sequence[str]) -> list[Any]:
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        return [key.encode() for key in keys]


class Clients:
    """Makes fake clients and remembers them. broken: whether the next one can be initialized."""

    def __init__(self) -> None:
        self.made: list[FakeCluster] = []
        self.broken = False

    def __call__(self) -> Any:
        self.made.append(FakeCluster(broken=self.broken))
        return self.made[-1]


async def until(condition: Any) -> None:
    async with asyncio.timeout(GUARD_S):
        while not condition():  # noqa: ASYNC110 (the tasks under test have no event to wait for)
            await asyncio.sleep(0)


async def test_a_request_that_times_out_leaves_the_others_their_client() -> None:
    clients = Clients()
    link = ClusterLink(clients, "p:")
    await link.open()
    first = clients.made[-1]
    slow, other = (asyncio.create_task(link.mget([number])) for number in (1, 2))
    await until(lambda: len(first.gates) == 2)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    await until(lambda: len(clients.made) == 2 and clients.made[1].initialized)
    assert not first.closed
    first.gates[1].set_result(None)
    assert await other == [b"p:2"]
    await until(lambda: first.closed)  # when its last reader has left
    later = asyncio.create_task(link.mget([3]))
    await until(lambda: clients.made[1].gates)
    clients.made[1].gates[0].set_result(None)
    assert await later == [b"p:3"]
    await link.close()
    assert all(client.closed for client in clients.made)


async def test_a_client_that_cannot_be_initialized_is_closed_and_the_old_one_stays() -> None:
    clients = Clients()
    link = ClusterLink(clients, "p:")
    await link.open()
    first = clients.made[0]

    reading = asyncio.create_task(link.mget([1]))
    await until(lambda: first.gates)
    clients.broken = True
    first.gates[0].set_exception(ConnectionError("a node is gone"))
    with pytest.raises(ConnectionError):
        await reading
    await until(lambda: len(clients.made) == 2 and clients.made[1].closed)
    clients.broken = False
    again = asyncio.create_task(link.mget([2]))
    await until(lambda: len(clients.made) == 3 and clients.made[2].gates)
    clients.made[2].gates[0].set_result(None)
    assert await again == [b"p:2"]
    await link.close()


async def test_no_request_waits_for_the_end_of_an_old_client_or_sees_its_error() -> None:
    clients = Clients()
    link = ClusterLink(clients, "p:")
    await link.open()
    first = clients.made[0]
    first.hangs = asyncio.Event()  # as over TLS, where a node that hangs does not take leave
    lost, last = (asyncio.create_task(link.mget([number])) for number in (1, 2))
    await until(lambda: len(first.gates) == 2)
    first.gates[0].set_exception(ConnectionError("a node is gone"))
    with pytest.raises(ConnectionError):
        await lost
    await until(lambda: len(clients.made) == 2 and clients.made[1].initialized)
    first.gates[1].set_result(None)
    async with asyncio.timeout(GUARD_S):
        assert await last == [b"p:2"]
    await until(lambda: first.closed)
    first.hangs.set()
    await link.close()
    assert all(client.closed for client in clients.made)
