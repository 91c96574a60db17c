"""What every feature store promises, whichever it is; Redis is a real redis-server, also over TLS and as a cluster."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from custom_runtime.errors import ContractMismatch, StoreError
from custom_runtime.features.adapters import open_store
from custom_runtime.features.memory import MemoryStore, SharedRecords
from custom_runtime.features.store import FeatureStore
from custom_runtime.model.encoding import WIDTH
from tests.support.feature_rows import FINGERPRINT, NAME, OTHER_FINGERPRINT, UPDATED_AT, rows_of
from tests.support.programs import RedisServer, free_port, program, redis_cluster

TIMEOUT_S = 5.0


class Backend:
    """Where rows are stored; `store()` is another client of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._shelf: SharedRecords = {}
        self._made: list[FeatureStore] = []

    def store(self, fingerprint: str = FINGERPRINT) -> FeatureStore:
        if self.url == "memory://":
            made: FeatureStore = MemoryStore(name=NAME, fingerprint=fingerprint, shared=self._shelf)
        else:
            made = open_store(self.url, name=NAME, fingerprint=fingerprint)
        self._made.append(made)
        return made

    async def close(self) -> None:
        for store in self._made:
            await store.close()


@pytest.fixture(scope="module")
def plain_redis() -> Iterator[RedisServer]:
    with RedisServer("--databases", "200") as server:
        yield server


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    new = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*new, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    port = free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    options = ["--databases", "200", "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *files]
    with RedisServer(*options, port=port, scheme="rediss") as server:
        server.url += f"/{{database}}?ssl_ca_certs={certificate}"
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    with redis_cluster() as servers:
        yield servers[0]


@pytest.fixture
def backend_url(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'features.db'}"
    if kind == "memory":
        return "memory://"
    if kind == "redis":
        return f"{request.getfixturevalue('plain_redis').url}/{_database()}"
    if kind == "redis-tls":
        return str(request.getfixturevalue("tls_redis").url).format(database=_database())
    server = request.getfixturevalue("cluster")
    flush = ["redis-cli", "--cluster", "call", f"127.0.0.1:{server.port}", "flushall"]
    subprocess.run(flush, check=True, capture_output=True)
    return str(server.url).replace("redis://", "redis+cluster://")


_taken = iter(range(200))


def _database() -> int:
    return next(_taken)  # every test a database of its own


@pytest.fixture(params=["memory", "sqlite", "redis", "redis-tls", "redis-cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def backend(backend_url: str) -> AsyncIterator[Backend]:
    backend = Backend(backend_url)
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> FeatureStore:
    """An open store that holds the customers 0..299."""
    ids = list(range(300))
    await backend.store().put(ids, rows_of(ids), updated_at=UPDATED_AT)
    store = backend.store()
    await store.open()
    return store


async def test_rows_come_back_in_the_order_asked_for(store: FeatureStore) -> None:
    ids = [7, 0, 299, 41]
    fetched = await store.fetch(ids, timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of(ids))
    np.testing.assert_array_equal(fetched.updated_at, [UPDATED_AT] * 4)
    assert fetched.rows.dtype == np.float32


async def test_one_row(store: FeatureStore) -> None:
    fetched = await store.fetch([42], timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of([42]))


async def test_an_empty_batch(store: FeatureStore) -> None:
    assert (await store.fetch([], timeout_s=TIMEOUT_S)).rows.shape == (0, WIDTH)


@pytest.mark.parametrize("ids", [[5_000], [1, 5_000, 2], [2**63 - 1], [5_000, 5_001]])
async def test_missing_customers_are_zeros_with_time_zero(store: FeatureStore, ids: list[int]) -> None:
    fetched = await store.fetch(ids, timeout_s=TIMEOUT_S)
    known = np.array([customer_id < 300 for customer_id in ids])
    np.testing.assert_array_equal(fetched.updated_at, np.where(known, UPDATED_AT, 0.0))
    assert not fetched.rows[~known].any()
    np.testing.assert_array_equal(fetched.rows[known], rows_of([i for i in ids if i < 300]))


async def test_a_customer_asked_for_twice_comes_twice(store: FeatureStore) -> None:
    ids = [3, 9, 3, 3]
    fetched = await store.fetch(ids, timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of(ids))


async def test_a_batch_of_ten_thousand(store: FeatureStore) -> None:
    ids = [(7 * i) % 400 for i in range(10_000)]
    fetched = await store.fetch(ids, timeout_s=TIMEOUT_S)
    known = np.array(ids) < 300
    np.testing.assert_array_equal(fetched.updated_at > 0, known)
    np.testing.assert_array_equal(fetched.rows[known], rows_of(ids)[known])


async def test_rows_may_be_overwritten_by_the_caller(store: FeatureStore) -> None:
    first = await store.fetch([1, 2], timeout_s=TIMEOUT_S)
    first.rows[:] = -1
    second = await store.fetch([1, 2], timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(second.rows, rows_of([1, 2]))


async def test_the_last_write_wins_and_open_readers_see_it(store: FeatureStore, backend: Backend) -> None:
    await backend.store().put([1], rows_of([1000]), updated_at=UPDATED_AT + 1)
    fetched = await store.fetch([1, 2], timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of([1000, 2]))
    np.testing.assert_array_equal(fetched.updated_at, [UPDATED_AT + 1, UPDATED_AT])


async def test_count_counts_customers_not_writes(store: FeatureStore) -> None:
    await store.put([1, 300], rows_of([1, 300]), updated_at=UPDATED_AT)
    assert await store.count() == 301


async def test_ids_may_be_written_as_a_column(store: FeatureStore) -> None:
    ids = np.array([400, 2**62], dtype=np.int64)
    await store.put(ids, rows_of([400, 401]), updated_at=UPDATED_AT)
    fetched = await store.fetch([2**62, 400], timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of([401, 400]))


async def test_many_fetches_at_once_do_not_mix(store: FeatureStore) -> None:
    batches = [[i, i + 1, i + 2] for i in range(64)]
    fetched = await asyncio.gather(*(store.fetch(ids, timeout_s=TIMEOUT_S) for ids in batches))
    for ids, one in zip(batches, fetched, strict=True):
        np.testing.assert_array_equal(one.rows, rows_of(ids))


async def test_another_contract_is_refused_naming_both(store: FeatureStore, backend: Backend) -> None:
    with pytest.raises(ContractMismatch) as refused:
        await backend.store(OTHER_FINGERPRINT).open()
    assert FINGERPRINT in str(refused.value)
    assert OTHER_FINGERPRINT in str(refused.value)


async def test_two_contracts_live_side_by_side(store: FeatureStore, backend: Backend) -> None:
    other = backend.store(OTHER_FINGERPRINT)
    await other.put([1], rows_of([77]), updated_at=UPDATED_AT)
    await other.open()
    np.testing.assert_array_equal((await other.fetch([1], timeout_s=TIMEOUT_S)).rows, rows_of([77]))
    np.testing.assert_array_equal((await store.fetch([1], timeout_s=TIMEOUT_S)).rows, rows_of([1]))
    assert (await other.count(), await store.count()) == (1, 300)


async def test_an_empty_store_is_refused_with_the_command_to_load_it(backend: Backend, kind: str) -> None:
    if kind == "memory":
        await backend.store().open()  # born empty in every process
        return
    with pytest.raises(StoreError, match=r"churn-serving features load --store"):
        await backend.store().open()


async def test_close_may_be_called_twice(store: FeatureStore) -> None:
    await store.close()
    await store.close()


def test_kinds_label_the_metrics(kind: str, backend_url: str) -> None:
    assert open_store(backend_url).kind == kind.partition("-")[0]
