"""A SQLite file that is locked, replaced, deleted, cut short or corrupt while it is served."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from custom_runtime.errors import ContractMismatch, StoreError, StoreUnavailable
from custom_runtime.features.sqlite import SQLiteStore
from custom_runtime.features.sqlite_table import SQLiteLoad
from tests.support.feature_rows import FINGERPRINT, NAME, OTHER_FINGERPRINT, UPDATED_AT, Clock, rows_of
from tests.support.programs import GUARD_S

IDS = list(range(200))
TIMEOUT_S = GUARD_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.db"


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
    await fill(path, shift=0)
    store = SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT, clock=clock)
    await store.open()
    yield store
    await store.close()


async def fill(path: Path, *, shift: int) -> None:
    """Load the customers with rows shifted by `shift`, as a load of new data does."""
    load = SQLiteLoad(path, name=NAME, fingerprint=FINGERPRINT)
    await load.begin(f"job {shift}")
    await load.write(IDS, rows_of([shift + i for i in IDS]), updated_at=UPDATED_AT, position=len(IDS))
    await load.finish()
    await load.close()


async def first_value(store: SQLiteStore, customer_id: int = 5) -> float:
    return float((await store.fetch([customer_id], timeout_s=TIMEOUT_S)).rows[0, 0])


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
table = connection.execute("SELECT name FROM sqlite_schema").fetchone()[0]
connection.execute(f'DELETE FROM "{table}" WHERE rowid < 100')
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def open_transaction(path: Path) -> Iterator[None]:
    """Another process that has deleted half of the rows and does not commit."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"locked\n"
        yield
        writer.kill()


async def test_readers_do_not_wait_for_a_writer_in_another_process(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that waited would not end.
    monkeypatch.setattr("custom_runtime.features.sqlite_table.READ_BUSY_MS", GUARD_S * 1e3)
    await fill(path, shift=0)
    store = SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT, clock=clock)
    await store.open()
    with open_transaction(path):
        for customer_id in IDS:
            assert await first_value(store, customer_id) == customer_id
        newcomer = SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT)
        await newcomer.open()
        assert await first_value(newcomer) == 5
        await newcomer.close()
    await store.close()


async def test_a_second_writer_waits_for_the_first_only_so_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(path, shift=0)
    monkeypatch.setattr("custom_runtime.features.sqlite_table.WRITE_BUSY_MS", 50)
    second = SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT)
    with open_transaction(path), pytest.raises(StoreError, match="locked"):
        await second.put([1], rows_of([1]), updated_at=UPDATED_AT)
    await second.put([1], rows_of([1]), updated_at=UPDATED_AT)
    await second.close()


async def test_a_new_load_shows_at_once_and_as_a_whole(store: SQLiteStore, path: Path) -> None:
    load = SQLiteLoad(path, name=NAME, fingerprint=FINGERPRINT)
    await load.begin("new")
    await load.write(IDS[:100], rows_of([1000 + i for i in IDS[:100]]), updated_at=UPDATED_AT, position=100)
    assert await first_value(store) == 5
    await load.write(IDS[100:], rows_of([1000 + i for i in IDS[100:]]), updated_at=UPDATED_AT, position=200)
    assert await first_value(store) == 5
    await load.finish()
    fetched = await store.fetch(IDS, timeout_s=TIMEOUT_S)
    np.testing.assert_array_equal(fetched.rows, rows_of([1000 + i for i in IDS]))
    await load.close()


LOADER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from custom_runtime.model.encoding import WIDTH
from custom_runtime.features.sqlite_table import SQLiteLoad
async def run(path, name, fingerprint):
    for turn in range(1, 16):
        load = SQLiteLoad(Path(path), name=name, fingerprint=fingerprint)
        await load.begin(str(turn))
        rows = np.arange(200, dtype=np.float32)[:, None] + np.full(WIDTH, 1000 * turn, dtype=np.float32)
        await load.write(range(200), rows, updated_at=1.0, position=200)
        await load.finish()
        await load.close()
asyncio.run(run(*sys.argv[1:]))
"""


async def test_no_fetch_fails_or_mixes_while_loads_replace_the_rows(
    store: SQLiteStore, path: Path, clock: Clock
) -> None:
    loader = subprocess.Popen([sys.executable, "-c", LOADER, str(path), NAME, FINGERPRINT])
    seen = set()
    while loader.poll() is None:
        clock.advance(0.1)
        fetched = await store.fetch(IDS, timeout_s=TIMEOUT_S)
        shifts = set((fetched.rows[:, 0] - np.arange(200)).tolist())
        assert len(shifts) == 1  # one statement sees one load
        seen |= shifts
        await asyncio.sleep(0)
    assert loader.returncode == 0
    assert await first_value(store) == 15_005
    assert len(seen) > 1


async def test_a_file_renamed_over_it_is_noticed_without_a_failed_request(
    store: SQLiteStore, path: Path, clock: Clock
) -> None:
    await fill(path.with_name("new.db"), shift=1000)
    path.with_name("new.db").rename(path)
    assert await first_value(store) == 5  # the old file, until it is looked at
    clock.advance(0.51)
    assert await first_value(store) == 1005


async def test_a_deleted_file_is_unavailable_and_recovers_when_it_is_back(
    store: SQLiteStore, path: Path, clock: Clock
) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    path.unlink()
    clock.advance(0.51)
    with pytest.raises(StoreUnavailable, match=r"features\.db"):
        await first_value(store)
    with pytest.raises(StoreUnavailable):
        await store.fetch(IDS * 10, timeout_s=TIMEOUT_S)
    shutil.copy(copy, path)
    clock.advance(0.51)
    assert await first_value(store) == 5


@pytest.mark.parametrize("damage", ["garbage", "cut", "emptied", "another database"])
async def test_a_damaged_file_is_unavailable_and_recovers_when_it_is_whole(
    store: SQLiteStore, path: Path, clock: Clock, damage: str
) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    if damage == "garbage":
        path.write_bytes(os.urandom(path.stat().st_size))
    elif damage == "cut":
        os.truncate(path, 6000)
    elif damage == "emptied":
        os.truncate(path, 0)
    else:
        with sqlite3.connect(path.with_name("other.db")) as other:
            other.execute("CREATE TABLE something (else_ INTEGER)")
        other.close()
        path.with_name("other.db").rename(path)
    clock.advance(0.51)
    for ids in ([199], IDS, IDS * 10):
        with pytest.raises(StoreUnavailable):
            await store.fetch(ids, timeout_s=TIMEOUT_S)
    copy.rename(path)
    clock.advance(0.51)
    assert await first_value(store, 199) == 199


async def test_while_the_file_is_broken_it_is_not_opened_for_every_request(
    store: SQLiteStore, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    clock.advance(0.51)
    with pytest.raises(StoreUnavailable):
        await first_value(store)
    clock.advance(0.21)
    attempts = 0
    connect = store._file.connect

    def counted() -> None:
        nonlocal attempts
        attempts += 1
        connect()

    monkeypatch.setattr(store._file, "connect", counted)
    for _ in range(100):
        with pytest.raises(StoreUnavailable):
            await first_value(store)
    assert attempts == 1


async def test_rows_of_another_contract_in_its_place_are_never_read(
    store: SQLiteStore, path: Path, clock: Clock
) -> None:
    new = SQLiteStore(path.with_name("new.db"), name=NAME, fingerprint=OTHER_FINGERPRINT)
    await new.put(IDS, rows_of(IDS), updated_at=UPDATED_AT)
    await new.close()
    path.with_name("new.db").rename(path)
    clock.advance(0.51)
    with pytest.raises(StoreUnavailable, match=OTHER_FINGERPRINT):
        await first_value(store)


async def test_a_big_batch_lets_others_go_first_and_keeps_to_its_time(store: SQLiteStore, clock: Clock) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await store.fetch(IDS * 50, timeout_s=TIMEOUT_S)
    assert turns >= 10_000 // 256

    async def slow() -> None:
        while True:
            clock.advance(0.01)
            await asyncio.sleep(0)

    late = asyncio.create_task(slow())
    with pytest.raises(StoreUnavailable, match="of 10000 rows in 50 ms"):
        await store.fetch(IDS * 50, timeout_s=0.05)
    for running in (task, late):
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_missing_file_names_the_command_that_loads_it(path: Path) -> None:
    with pytest.raises(StoreError, match=rf"churn-serving features load --store sqlite:///{path}"):
        await SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT).open()


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be read as one" * 100])
async def test_a_file_that_is_no_store_is_refused_at_start(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"churn-serving features load"):
        await SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT).open()


async def test_an_interrupted_first_load_is_not_served(path: Path) -> None:
    load = SQLiteLoad(path, name=NAME, fingerprint=FINGERPRINT)
    await load.begin("job")
    await load.write(IDS, rows_of(IDS), updated_at=UPDATED_AT, position=200)
    await load.close()
    with pytest.raises(StoreError, match="holds no rows"):
        await SQLiteStore(path, name=NAME, fingerprint=FINGERPRINT).open()


READ_ONLY = """
import asyncio, os, sys
from pathlib import Path
from custom_runtime.features.sqlite import SQLiteStore
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
path = Path(sys.argv[1])
assert not os.access(path.parent, os.W_OK)
store = SQLiteStore(path, name=sys.argv[2], fingerprint=sys.argv[3])
asyncio.run(store.open())
print(asyncio.run(store.fetch([5], timeout_s=1)).rows[0, 0])
"""


async def test_a_read_only_volume_is_served(tmp_path: Path) -> None:
    # Root ignores permission bits, so the reader drops to nobody, who must be able to reach the folder.
    volume = Path("/tmp") / f"{tmp_path.parent.name}-{tmp_path.name}-{os.getpid()}"
    volume.mkdir()
    try:
        await fill(volume / "features.db", shift=0)
        (volume / "features.db").chmod(0o444)
        volume.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(volume / "features.db"), NAME, FINGERPRINT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == "5.0\n", done.stderr
    finally:
        volume.chmod(0o755)
        shutil.rmtree(volume)


async def test_another_contract_at_start_is_a_mismatch(path: Path) -> None:
    await fill(path, shift=0)
    with pytest.raises(ContractMismatch):
        await SQLiteStore(path, name=NAME, fingerprint=OTHER_FINGERPRINT).open()
