"""The service while its feature store is killed, paused, slow, garbled or replaced: under load, over real sockets."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.traffic import Traffic
from tests.faults import Proxy, given, latency_ms, predict, until, v2_grpc
from tests.programs import RedisServer
from tests.serving import ROOT, Server, World, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DEADLINE_MS = 500.0
RECOVERY_S = 2.0
STORED = ("predict", "v2_grpc")


def load_features(store: str) -> None:
    subprocess.run(
        [sys.executable, "scripts/load_features.py", "--store", store], cwd=ROOT, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    # On disk: one that is killed comes back with its rows.
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as running:
        load_features(running.url)
        yield running


@pytest.fixture(scope="module")
def on_redis(world: World, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # On a busy machine a healthy Redis may need more than the usual 25 ms.
    environment = world.environment | {"CHURN_FEATURE_STORE": redis.url, "CHURN_STORE_TIMEOUT_MS": "150"}
    with serving(environment, tmp_path_factory.mktemp("redis") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def proxy(redis: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis.port) as running:
        yield running


@pytest.fixture(scope="module")
def with_defaults(world: World, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = world.environment | {
        "CHURN_FEATURE_STORE": f"redis://127.0.0.1:{proxy.port}",
        "CHURN_STORE_FAILURE": "default",
    }
    with serving(environment, tmp_path_factory.mktemp("defaults") / "log") as server:
        yield server


def traffic_for(server: Server) -> Traffic:
    return Traffic([predict(server, qps=100), given(server, qps=100), v2_grpc(server, qps=50)])


def from_store(traffic: Traffic, since_s: float) -> int:
    """Answers since then whose features came from the store."""
    return sum(
        one.reply is not None and b'"features":"store"' in one.reply.body
        for one in traffic.outcomes
        if one.stream == "predict" and one.sent_s > since_s
    )


async def heal_and_time(heal: Callable[[], None], traffic: Traffic) -> float:
    await asyncio.to_thread(heal)
    healed_s = time.perf_counter()
    await until(lambda: from_store(traffic, healed_s) > 0, within_s=10, what="recovery")
    return time.perf_counter() - healed_s


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_without_redis_requests_end_in_time_as_503_and_those_with_all_features_do_not_notice(
    on_redis: Server, redis: RedisServer, fault: str
) -> None:
    hurt, heal = (redis.kill, redis.start) if fault == "killed" else (redis.pause, redis.resume)
    async with traffic_for(on_redis) as traffic:
        await until(lambda: from_store(traffic, 0) > 50, within_s=10, what="a warm start")
        hurt()
        hurt_s = time.perf_counter()
        await until(
            lambda: traffic.results(*STORED, since_s=hurt_s)["503 store_unavailable"] > 150, within_s=10, what="outage"
        )
        recovery_s = await heal_and_time(heal, traffic)
        recovered_s = time.perf_counter()
        await until(lambda: from_store(traffic, recovered_s) > 50, within_s=10, what="a healthy end")
    assert len(traffic.outcomes) == traffic.sent
    assert set(traffic.results(*STORED)) == {"200", "503 store_unavailable"}, traffic.results(*STORED)
    afterwards = traffic.results(*STORED, since_s=recovered_s)
    assert afterwards["200"] > 0.9 * afterwards.total(), afterwards
    assert set(traffic.results("given")) == {"200"}
    assert latency_ms(traffic, 0.99) < DEADLINE_MS
    assert recovery_s < RECOVERY_S


@pytest.mark.parametrize("fault", ["slow", "garbage"])
async def test_with_defaults_configured_a_slow_or_talkative_redis_costs_no_answer(
    with_defaults: Server, proxy: Proxy, fault: str
) -> None:
    def hurt() -> None:
        proxy.delay_s, proxy.garbage = (0.2, b"") if fault == "slow" else (0.0, b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def heal() -> None:
        proxy.delay_s, proxy.garbage = 0.0, b""

    async with traffic_for(with_defaults) as traffic:
        await until(lambda: from_store(traffic, 0) > 50, within_s=10, what="a warm start")
        hurt()
        hurt_s = time.perf_counter()
        await until(
            lambda: traffic.results("predict", since_s=hurt_s)["200"] > 100, within_s=10, what="answers meanwhile"
        )
        recovery_s = await heal_and_time(heal, traffic)
    assert len(traffic.outcomes) == traffic.sent
    assert set(traffic.results()) == {"200"}, traffic.results()
    sources = [
        one.reply.body.partition(b'"features":')[2]
        for one in traffic.outcomes
        if one.stream == "predict" and one.sent_s > hurt_s and one.reply
    ]
    assert sources.count(b'"default"}') > 50
    assert latency_ms(traffic, 0.99) < DEADLINE_MS
    assert recovery_s < RECOVERY_S


async def test_new_loads_into_sqlite_under_load_fail_no_request_and_a_lost_or_broken_file_comes_back(
    world: World, tmp_path: Path
) -> None:
    store = tmp_path / "features.db"
    shutil.copy(world.root / "features.db", store)
    spare = tmp_path / "spare.db"
    with serving(world.environment | {"CHURN_FEATURE_STORE": f"sqlite:///{store}"}, tmp_path / "log") as server:
        async with traffic_for(server) as traffic:
            for _ in range(2):
                await asyncio.to_thread(load_features, f"sqlite:///{store}")
            shutil.copy(store, spare)
            shutil.copy(store, tmp_path / "new.db")
            (tmp_path / "new.db").replace(store)  # another file in its place
            replaced_s = time.perf_counter()
            await until(lambda: from_store(traffic, replaced_s) > 100, within_s=10, what="the new file")
            assert set(traffic.results()) == {"200"}, traffic.results()
            for hurt in (store.unlink, lambda: _ruin(store)):
                hurt_s = time.perf_counter()
                hurt()
                await until(
                    lambda since_s=hurt_s: traffic.results(*STORED, since_s=since_s)["503 store_unavailable"] > 20,  # type: ignore[misc]
                    within_s=10,
                    what="outage",
                )
                recovery_s = await heal_and_time(lambda: _restore(spare, store), traffic)
                assert recovery_s < RECOVERY_S
    assert len(traffic.outcomes) == traffic.sent
    assert set(traffic.results(*STORED)) == {"200", "503 store_unavailable"}
    assert set(traffic.results("given")) == {"200"}
    assert latency_ms(traffic, 0.99) < DEADLINE_MS


def _ruin(store: Path) -> None:
    ruined = store.with_name("ruined.db")
    ruined.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    ruined.replace(store)


def _restore(spare: Path, store: Path) -> None:
    copy = store.with_name("copy.db")
    shutil.copy(spare, copy)
    for side in ("-wal", "-shm"):
        store.with_name(store.name + side).unlink(missing_ok=True)
    copy.replace(store)
