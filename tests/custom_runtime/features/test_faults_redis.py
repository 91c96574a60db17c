"""Redis down, killed, paused, slow, full, failing over or not Redis at all: real servers, sockets and signals."""

import asyncio
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial

import numpy as np
import pytest

from custom_runtime.errors import StoreError, StoreUnavailable
from custom_runtime.features.breaker import JITTER, PROBE_INTERVAL_S, THRESHOLD
from custom_runtime.features.redis import RedisStore
from custom_runtime.features.redis_link import CLUSTER_CONNECT_TIMEOUT_S
from tests.support.feature_rows import FINGERPRINT, NAME, UPDATED_AT, Clock, rows_of
from tests.support.programs import GUARD_S, RedisServer, eventually, free_port, program, redis_cluster

TIMEOUT_S = 0.05
# Connecting and commands may take so long in these tests that a request which waited for one would be late, and a
# request that kept its own timeout on a busy machine is not.
LONG_S = 120.0
LATE_S = 30.0
IDS = list(range(50))


@pytest.fixture
def _long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis.COMMAND_TIMEOUT_S", "redis.CONNECT_TIMEOUT_S", "redis_link.CONNECT_TIMEOUT_S"):
        monkeypatch.setattr(f"custom_runtime.features.{name}", LONG_S)


@pytest.fixture
def redis(_long_timeouts: None) -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def store(redis: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(redis.url) as store:
        cli(redis, "save")  # what a restart finds
        yield store


@asynccontextmanager
async def opened(
    url: str, *, load: str | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[RedisStore]:
    """A store at `url` whose rows were written through `load`, or through the URL itself."""
    writer = RedisStore(load or url, name=NAME, fingerprint=FINGERPRINT)
    await writer.put(IDS, rows_of(IDS), updated_at=UPDATED_AT)
    await writer.close()
    store = RedisStore(url, name=NAME, fingerprint=FINGERPRINT, clock=clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def cli(server: RedisServer, *command: str) -> None:
    redis_cli = program("redis-cli", package="redis-tools")
    subprocess.run([redis_cli, "-p", str(server.port), *command], check=True, capture_output=True)


def said(server: RedisServer, *command: str) -> str:
    redis_cli = program("redis-cli", package="redis-tools")
    return subprocess.run(
        [redis_cli, "-p", str(server.port), *command], check=True, capture_output=True, text=True
    ).stdout


async def fetch(store: RedisStore, *ids: int, timeout_s: float = GUARD_S) -> list[float]:
    fetched = await store.fetch(list(ids), timeout_s=timeout_s)
    return [float(row[0]) for row in fetched.rows]


async def fails_in_time(store: RedisStore) -> None:
    started = time.perf_counter()
    with pytest.raises(StoreUnavailable):
        await fetch(store, 1, timeout_s=TIMEOUT_S)
    assert time.perf_counter() - started < LATE_S


async def recovers(store: RedisStore, *, ids: Sequence[int] = (3, 7), timeout_s: float = TIMEOUT_S) -> None:
    """Requests keep coming; one of them is answered, rightly, in time."""
    started = time.perf_counter()
    while True:
        try:
            assert await fetch(store, *ids, timeout_s=timeout_s) == list(ids)
            return
        except StoreUnavailable as error:
            if time.perf_counter() - started > GUARD_S:
                pytest.fail(f"no recovery in {GUARD_S:g} s: {error}")
            await asyncio.sleep(0.01)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Passes bytes on to `port`, each chunk `delay_s` late; `cut()` closes every connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.delay_s = 0.0
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers += [writer, upstream_writer]
        try:
            await asyncio.gather(self._pass(reader, upstream_writer), self._pass(upstream_reader, writer))
        finally:
            upstream_writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(self.delay_s)
            writer.write(data)
        writer.close()


@pytest.mark.usefixtures("_long_timeouts")
async def test_redis_down_at_start_is_a_store_error_in_time() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}", name=NAME, fingerprint=FINGERPRINT)
    started = time.perf_counter()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        await store.open()
    assert time.perf_counter() - started < LATE_S
    await store.close()


async def test_killed_in_mid_load_and_started_again(store: RedisStore, redis: RedisServer) -> None:
    for _ in range(100):
        assert await fetch(store, 3, 7) == [3, 7]
    redis.kill()
    late = 0.0
    for _ in range(20):
        started = time.perf_counter()
        with pytest.raises(StoreUnavailable):
            await fetch(store, 3, 7, timeout_s=TIMEOUT_S)
        late = max(late, time.perf_counter() - started)
    assert late < LATE_S
    redis.start()
    await recovers(store)


async def test_a_restart_between_two_requests_fails_neither(store: RedisStore, redis: RedisServer) -> None:
    assert await fetch(store, 3) == [3]
    redis.kill()
    redis.start()
    await asyncio.sleep(0.01)  # the loop notices the closed socket
    fetched = await store.fetch([4], timeout_s=GUARD_S)
    assert fetched.rows[0, 0] == 4


async def test_paused_and_resumed(store: RedisStore, redis: RedisServer) -> None:
    redis.pause()
    for _ in range(5):
        await fails_in_time(store)
    redis.resume()
    await recovers(store)


async def test_while_it_is_down_requests_fail_at_once(redis: RedisServer, clock: Clock) -> None:
    async with opened(redis.url, clock=clock) as store:  # it does not move: none of these is a probe
        redis.pause()
        for _ in range(3):
            await fails_in_time(store)
        for _ in range(100):  # with this timeout, one that waited would end the test
            with pytest.raises(StoreUnavailable, match="tried again within a second"):
                await fetch(store, 1)


async def test_an_answer_that_comes_too_late_never_meets_another_request(redis: RedisServer) -> None:
    proxy = Proxy(redis.port)
    async with listening(proxy) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
        assert await fetch(store, 3) == [3]
        proxy.delay_s = 0.2
        for customer_id in (11, 12, 13):
            with pytest.raises(StoreUnavailable, match="no answer in 50 ms"):
                await fetch(store, customer_id, timeout_s=TIMEOUT_S)
        proxy.delay_s = 0.0
        await recovers(store)
        assert await fetch(store, 21, 22) == [21, 22]


async def test_a_cancelled_request_leaves_nothing_behind(store: RedisStore, redis: RedisServer) -> None:
    redis.pause()
    running = asyncio.create_task(store.fetch([1, 2], timeout_s=GUARD_S))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    redis.resume()
    assert (await store.fetch([5], timeout_s=GUARD_S)).rows[0, 0] == 5


async def test_connecting_and_asking_may_take_longer_together_than_a_request_may_wait(redis: RedisServer) -> None:
    proxy = Proxy(redis.port)
    async with listening(proxy) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
        proxy.cut()
        await asyncio.sleep(0.01)
        proxy.delay_s = 0.04  # asking takes 80 ms, connecting takes 80 ms
        with pytest.raises(StoreUnavailable, match="no answer in 140 ms"):
            await fetch(store, 3, timeout_s=0.14)
        # Those tries have 60 ms to spare: on a busy machine, not each of them is enough.
        await recovers(store, timeout_s=0.14)


async def test_failing_over_to_another_server_behind_the_same_address(redis: RedisServer) -> None:
    proxy = Proxy(redis.port)
    with RedisServer() as standby:
        async with opened(standby.url):
            pass  # loaded
        async with listening(proxy) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
            assert await fetch(store, 3) == [3]
            redis.kill()
            proxy.port = standby.port
            proxy.cut()
            await recovers(store)


async def test_a_replica_in_place_of_the_primary_is_read_and_says_why_it_is_not_written(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        assert await fetch(store, 3) == [3]
        cli(redis, "config", "set", "repl-diskless-sync-delay", "0")  # not the 5 s in which others might ask too
        with RedisServer() as primary:
            cli(primary, "replicaof", "127.0.0.1", str(redis.port))
            follows(primary)
            cli(redis, "failover")
            eventually(lambda: not leads(redis) and leads(primary), what="the roles are exchanged")
            assert await fetch(store, 3) == [3]
            with pytest.raises(StoreError, match="read only replica"):
                await store.put([60], rows_of([60]), updated_at=UPDATED_AT)
            async with opened(primary.url) as elsewhere:
                await elsewhere.put([60], rows_of([60]), updated_at=UPDATED_AT)
            cli(primary, "wait", "1", "5000")
            assert await fetch(store, 60) == [60]


async def test_an_empty_server_in_place_of_the_loaded_one_is_unavailable_until_it_is_loaded(redis: RedisServer) -> None:
    proxy = Proxy(redis.port)
    with RedisServer() as empty:
        async with listening(proxy) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
            assert await fetch(store, 3) == [3]
            redis.kill()
            proxy.port = empty.port
            proxy.cut()
            await asyncio.sleep(0)
            for _ in range(5):
                await fails_in_time(store)
            async with opened(empty.url):
                pass  # loaded
            await recovers(store)


async def test_out_of_connections_and_back(redis: RedisServer, store: RedisStore) -> None:
    cli(redis, "client", "kill", "type", "normal", "skipme", "no")
    cli(redis, "config", "set", "maxclients", "3")
    taken = [eventually(partial(slot, redis)) for _ in range(3)]
    await fails_in_time(store)
    for connection in taken:
        assert connection is not None
        connection.close()
    await recovers(store)


def slot(server: RedisServer) -> socket.socket | None:
    """One of the connections that the server accepts; None while it has not noticed that those before have left."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"PING\r\n")
    if connection.recv(16).startswith(b"+PONG"):
        return connection
    connection.close()
    return None


GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "noise": bytes(range(128, 256)),
    "one OK": b"+OK\r\n",
    "a number": b":1\r\n",
    "an error": b"-LOADING Redis is loading the dataset in memory\r\n",
    "a read-only replica cut off": b"-MASTERDOWN Link with MASTER is down\r\n",
    "too few values": b"*0\r\n",
    "too many values": b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "values of the wrong kind": b"*1\r\n:5\r\n",
    "a short record": b"*1\r\n$4\r\nabcd\r\n",
    "half a reply": b"*1\r\n$84\r\nabcd",
    "a huge claim": b"*1\r\n$999999999999\r\nabcd",
    "a deep nest": b"*1\r\n" * 50,
    "nothing, and closes": b"",
}


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_unavailable_and_the_store_recovers(redis: RedisServer, reply: bytes) -> None:
    proxy = Proxy(redis.port)
    talks_garbage = False

    async def either(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not talks_garbage:
            return await proxy(reader, writer)
        while data := await reader.read(65_536):
            # The handshake is answered as Redis does: what matters is the reply to MGET.
            greeting = b"+OK\r\n" * data.count(b"SETINFO") + b":1\r\n" * data.count(b"SISMEMBER")
            writer.write(greeting if b"MGET" not in data else reply)
            if b"MGET" in data and not reply:
                return None
        return None

    async with listening(either) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
        assert await fetch(store, 3) == [3]
        talks_garbage = True
        proxy.cut()
        await asyncio.sleep(0)
        for _ in range(5):
            await fails_in_time(store)
        talks_garbage = False
        proxy.cut()
        # The garbage server's connection, if it is still held, gives its garbage once more.
        await recovers(store)


async def test_an_outage_is_met_by_few_connections(redis: RedisServer) -> None:
    proxy = Proxy(redis.port)
    async with listening(proxy) as port, opened(f"redis://127.0.0.1:{port}", load=redis.url) as store:
        redis.kill()
        proxy.cut()
        before, started = proxy.connections, time.perf_counter()
        refused = 0
        while refused <= 100 or time.perf_counter() - started < 1.2:
            asked = (fetch(store, 1, timeout_s=TIMEOUT_S) for _ in range(10))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(result, StoreUnavailable) for result in results)
            refused += len(results)
            await asyncio.sleep(0.001)
        took_s = time.perf_counter() - started
        # Those before the breaker opened, sharing attempts, and a probe every 0.4 to 0.6 s.
        assert proxy.connections - before <= THRESHOLD + took_s / (PROBE_INTERVAL_S * (1 - JITTER))


async def test_one_bad_value_fails_its_own_batch_only(store: RedisStore, redis: RedisServer) -> None:
    cli(redis, "set", f"{NAME}:{FINGERPRINT}:9", "short")
    for _ in range(10):
        with pytest.raises(StoreUnavailable, match="a stored value is 5 bytes"):
            await fetch(store, 9)
    assert await fetch(store, 8, 10) == [8, 10]


async def test_put_to_a_paused_server_is_a_store_error(
    store: RedisStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custom_runtime.features.redis.COMMAND_TIMEOUT_S", 0.5)
    redis.pause()
    with pytest.raises(StoreError):
        await store.put([1], rows_of([1]), updated_at=UPDATED_AT)
    with pytest.raises(StoreError):
        await store.count()
    redis.resume()
    await store.put([1], rows_of([1]), updated_at=UPDATED_AT)
    np.testing.assert_array_equal((await store.fetch([1], timeout_s=GUARD_S)).rows, rows_of([1]))


@pytest.mark.slow
async def test_a_cluster_that_loses_a_node_and_gets_it_back() -> None:
    with redis_cluster() as servers:
        url = f"redis+cluster://127.0.0.1:{servers[0].port}"
        async with opened(url) as store:
            assert await fetch(store, *IDS) == IDS
            cli(servers[2], "save")
            servers[2].kill()
            for _ in range(5):
                started = time.perf_counter()
                with pytest.raises(StoreUnavailable):
                    await fetch(store, *IDS, timeout_s=TIMEOUT_S)
                assert time.perf_counter() - started < CLUSTER_CONNECT_TIMEOUT_S
            servers[2].start()
            # The nodes take their time to agree that all slots are served; the store needs no restart.
            deadline = time.perf_counter() + GUARD_S
            answer: list[float] = []
            while answer != IDS and time.perf_counter() < deadline:
                with suppress(StoreUnavailable):
                    answer = await fetch(store, *IDS, timeout_s=0.5)
                await asyncio.sleep(0.02)
            assert answer == IDS


@contextmanager
def cluster_replica(servers: list[RedisServer]) -> Iterator[RedisServer]:
    """Run one more node, which follows the first of the primaries."""
    first = servers[0]
    cli(first, "config", "set", "repl-diskless-sync-delay", "0")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(free_port()))
    with RedisServer(*options) as server:
        addresses = (f"127.0.0.1:{server.port}", f"127.0.0.1:{first.port}")
        follow = ("--cluster-slave", "--cluster-master-id", node_id(first))
        cli(first, "--cluster", "add-node", *addresses, *follow)
        follows(server)
        # One that is not known as a replica yet gets no votes.
        agree(servers, f"{node_id(server)} .* slave {node_id(first)}")
        yield server


def follows(server: RedisServer) -> None:
    """Wait until the server is a replica that has all of its primary's rows."""
    eventually(lambda: "master_link_status:up" in said(server, "info", "replication"), what="a replica in step")


def leads(server: RedisServer) -> bool:
    return said(server, "role").startswith("master")


def node_id(server: RedisServer) -> str:
    return said(server, "cluster", "myid").strip()


def agree(servers: list[RedisServer], line: str) -> None:
    """Wait until every node's view of the cluster has a line like this, and all slots are served."""

    def knows(server: RedisServer) -> bool:
        whole = "cluster_state:ok" in said(server, "cluster", "info")
        return whole and re.search(line, said(server, "cluster", "nodes")) is not None

    for server in servers:
        eventually(partial(knows, server), what="the nodes agree")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "hung"])
async def test_a_cluster_whose_replica_takes_over_is_read_on_without_a_restart(fault: str) -> None:
    with redis_cluster() as servers, cluster_replica(servers) as replica:
        primary, others = servers[0], servers[1:]
        async with opened(f"redis+cluster://127.0.0.1:{primary.port}") as store:
            assert await fetch(store, *IDS) == IDS
            cli(replica, "cluster", "failover")  # planned: the nodes redirect
            eventually(partial(leads, replica), what="the planned failover")
            await recovers(store, ids=IDS, timeout_s=0.5)
            follows(primary)
            replica.kill() if fault == "killed" else replica.pause()
            while not leads(primary):
                started = time.perf_counter()
                with suppress(StoreUnavailable):
                    await fetch(store, *IDS, timeout_s=TIMEOUT_S)
                assert time.perf_counter() - started < CLUSTER_CONNECT_TIMEOUT_S
            agree([primary, *others], f"{node_id(primary)} .*master .* 0-5460")
            await recovers(store, ids=IDS, timeout_s=0.5)


@pytest.mark.slow
async def test_a_cluster_that_redirected_to_a_lost_node_is_left_without_a_connection() -> None:
    with redis_cluster() as servers, cluster_replica(servers) as replica:
        primary = servers[0]
        async with opened(f"redis+cluster://127.0.0.1:{primary.port}") as store:
            assert await fetch(store, *IDS) == IDS
            cli(replica, "cluster", "failover")
            eventually(partial(leads, replica), what="the planned failover")
            follows(primary)
            replica.kill()
            with pytest.raises(StoreUnavailable):
                await fetch(store, *IDS)
        for server in servers:
            eventually(partial(has_no_clients, server), what="the store's connections are closed")


def has_no_clients(server: RedisServer) -> bool:
    return len(said(server, "client", "list", "type", "normal").splitlines()) == 1  # redis-cli itself
