"""Prediction records as evidence: what each version has answered to which request.

The service writes them (SERVING_RECORDS): Parquet segments, and one open Arrow stream for each process. They are read
here by the names of their columns only: time, request_id, row, predictor, score, scores, and latency_ms and contract
where there are any.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rollout.analysis.paired import Answer
from rollout.errors import EvidenceMalformed, EvidenceUnavailable

if TYPE_CHECKING:
    import pyarrow

NEEDED: Final = ("time", "request_id", "predictor")
OPTIONAL: Final = ("row", "score", "scores", "latency_ms", "contract")
MOST_ROWS: Final = 200_000
"""With more rows, only the requests in a part of the hashes of their ids are compared, the same for both versions."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One record: the Unix time, the predictor, the request's id and row, the answer.

    contract: the fingerprint of the contract that it was made by; "" where the record names none.
    """

    at_s: float
    predictor: str
    request: tuple[str, int]
    answer: Answer
    contract: str = ""


def read_records(
    directory: str,
    predictors: Collection[str],
    *,
    since_s: float,
    most_rows: int = MOST_ROWS,
    requests: Collection[str] | None = None,
) -> list[RecordedAnswer]:
    """Return the records of these predictors with a request id, from a time on; those of young segments included.

    requests: only these request ids; None: all.
    Raises EvidenceUnavailable where there are no files or no pyarrow, EvidenceMalformed for files of anything else.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise EvidenceUnavailable("prediction records need pyarrow: pip install pyarrow") from error
    folder = Path(directory.removeprefix("file://"))
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*.arrows")])
    if not files:
        raise EvidenceUnavailable(f"{folder} has no prediction records (*.parquet, *.arrows); is SERVING_RECORDS set?")
    tables = []
    for file in files:
        try:
            tables += [_selected(table, predictors, since_s, file, requests) for table in _tables(file)]
        except FileNotFoundError:
            continue  # a segment was completed or removed meanwhile
        except (OSError, pa.ArrowException) as error:
            raise EvidenceMalformed(f"{file} cannot be read as prediction records: {error}") from error
    total = sum(table.num_rows for table in tables)
    share = most_rows / total if total > most_rows else 1.0
    return [found for table in tables for found in _answers(table, share)]


def _tables(file: Path) -> Iterator[pyarrow.Table]:
    """Read one segment. The end of an open stream may be missing, and so may be a whole young stream."""
    import pyarrow as pa
    from pyarrow import parquet

    if file.suffix == ".parquet":
        with parquet.ParquetFile(file) as segment:
            present = [name for name in (*NEEDED, *OPTIONAL) if name in segment.schema_arrow.names]
            _check(present, file)
            yield segment.read(columns=present)
        return
    with file.open("rb") as stream:
        batches = []
        try:
            with pa.ipc.open_stream(stream) as reader:
                _check(reader.schema.names, file)
                batches += list(_whole(reader))
        except (pa.ArrowInvalid, EOFError):
            return  # not even the schema is written yet
    if batches:
        table = pa.Table.from_batches(batches)
        yield table.select([name for name in (*NEEDED, *OPTIONAL) if name in table.column_names])


def _whole(reader: Any) -> Iterator[Any]:
    import pyarrow as pa

    while True:
        try:
            yield reader.read_next_batch()
        except (StopIteration, EOFError, OSError, pa.ArrowInvalid):
            return


def _check(names: Collection[str], file: Path) -> None:
    if missing := [name for name in NEEDED if name not in names]:
        raise EvidenceMalformed(f"{file} has no column {', '.join(missing)}; its columns: {', '.join(names)}")


def _selected(
    table: pyarrow.Table, predictors: Collection[str], since_s: float, file: Path, requests: Collection[str] | None
) -> pyarrow.Table:
    import pyarrow as pa
    from pyarrow import compute

    if not pa.types.is_timestamp(table.schema.field("time").type):
        raise EvidenceMalformed(f"{file}: time is {table.schema.field('time').type}; a timestamp is wanted")
    since = pa.scalar(datetime.fromtimestamp(since_s, UTC), table.schema.field("time").type)
    wanted = compute.and_(
        compute.greater_equal(table["time"], since),
        compute.and_(
            compute.is_valid(table["request_id"]), compute.is_in(table["predictor"], pa.array(sorted(predictors)))
        ),
    )
    if requests is not None:
        wanted = compute.and_(wanted, compute.is_in(table["request_id"], pa.array(sorted(requests), pa.string())))
    return table.filter(wanted)


def _answers(table: pyarrow.Table, share: float) -> Iterator[RecordedAnswer]:
    for row in table.to_pylist():
        request = row["request_id"]
        if share < 1 and zlib.crc32(request.encode()) >= share * 2**32:
            continue
        scores = row.get("scores") or ([row["score"]] if row.get("score") is not None else [])
        answer = Answer(tuple(scores), row.get("latency_ms"))
        at_s, contract = row["time"].timestamp(), row.get("contract") or ""
        yield RecordedAnswer(at_s, row["predictor"], (request, row.get("row") or 0), answer, contract)
