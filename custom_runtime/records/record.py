"""One prediction as one row: the schema of the records, and batches of the predictor -> Arrow record batches.

The key is written as text, hashed, or left out. Whether a key is recorded at all depends on the key alone, so that a
row is always in the sample or always out of it, in every pod and every version. A contract without a key is sampled by
the request's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, compress
from math import nan
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StoreUnavailable
from custom_runtime.features.store import FetchedRows
from custom_runtime.model.encoding import Matrix
from custom_runtime.prediction.challengers import ChallengerScores
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.schema import FEATURE_SOURCES, Feature
from custom_runtime.tracing import RequestOrigin

KeyMode = Literal["hashed", "plain", "omitted"]

_TIME = pa.timestamp("us", tz="UTC")
_SCORES = pa.list_(pa.float64())
_CHALLENGER = pa.struct([("version", pa.string()), ("score", pa.float64()), ("scores", _SCORES)])
# The key-value metadata of every file of records.
CONTRACT_METADATA = b"contract"


def schema_of(features: Sequence[Feature], fingerprint: str) -> pa.Schema:
    """Return the columns of the records of a contract.

    score: the probability of the positive class, or a regression's value; null where there are several classes, whose
    scores are in `scores`. row: the row's number in the caller's request. features_time: when the store's row was
    written; null where none was read. latency_ms: from the moment the predictor took the parsed request until its rows
    were scored: waiting for the batch, reading features, scoring. Reading and writing bodies is not in it.
    """
    values = [(feature.name, pa.string() if feature.is_category else pa.float32()) for feature in features]
    return pa.schema(
        [
            pa.field("time", _TIME, nullable=False),
            ("request_id", pa.string()),
            ("inference_id", pa.string()),
            pa.field("row", pa.int32(), nullable=False),
            ("traceparent", pa.string()),
            pa.field("model", pa.string(), nullable=False),
            pa.field("predictor", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            ("key", pa.string()),
            ("key_hash", pa.string()),
            ("score", pa.float64()),
            ("scores", _SCORES),
            ("latency_ms", pa.float64()),
            pa.field("source", pa.string(), nullable=False),
            ("features_time", _TIME),
            ("features", pa.struct(values)),
            ("challengers", pa.list_(_CHALLENGER)),
            pa.field("contract", pa.string(), nullable=False),
        ],
        metadata={CONTRACT_METADATA: fingerprint.encode()},
    )


SCHEMA = schema_of(CONTRACT.features, CONTRACT.fingerprint)


HASH_DIGITS = 32


def key_hash(salt: str, key: int | str) -> str:
    """Return what stands for a key in records that must not name it: 32 hex digits of HMAC-SHA256 over its text."""
    return _key_hashes(salt, (key,))


def _key_hashes(salt: str, keys: Iterable[int | str]) -> str:
    """Return the hashes of some keys, one after the other."""
    inner_state, outer_state = _hmac_states(salt)
    copy_inner, copy_outer = inner_state.copy, outer_state.copy
    digests = []
    for key in keys:
        inner, outer = copy_inner(), copy_outer()
        inner.update(str(key).encode())
        outer.update(inner.digest())
        digests.append(outer.digest()[: HASH_DIGITS // 2])
    return b"".join(digests).hex()


@lru_cache(4)
def _hmac_states(salt: str) -> tuple[Any, Any]:
    """Return the two hashes of RFC 2104 after the salt: copying them takes a third of the time of `hmac.digest`."""
    block_bytes = 64
    secret = salt.encode()
    padded = (hashlib.sha256(secret).digest() if len(secret) > block_bytes else secret).ljust(block_bytes, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in padded) for pad in (0x36, 0x5C))
    return hashlib.sha256(inner), hashlib.sha256(outer)


def sample_position(identity: int | str) -> float:
    """Return the place of a key, or of what stands for it, in [0, 1): it is recorded where the share is greater."""
    return int.from_bytes(hashlib.blake2b(str(identity).encode(), digest_size=8).digest()) / 2**64


class ScoredBatch(NamedTuple):
    """What the predictor hands over. results: one for each query; rows: float32, of the good queries only, in order.

    at_s: unix seconds. fetched: the store's rows for the queries that needed them, in order; None: there were none.
    scored_s: when they were scored, by the clock of Query.submitted_s.
    """

    at_s: float
    queries: Sequence[Query]
    rows: Matrix
    results: Sequence[Prediction | Exception]
    fetched: FetchedRows | StoreUnavailable | None
    scored_s: float = 0.0


class TakenRows(NamedTuple):
    """What the records need of a batch, a value for each row; stored_at_s: an array for each query, or one for all."""

    at_s: float
    latency_ms: list[float]
    keys: list[Any]
    inference_ids: list[str | None]
    origins: list[RequestOrigin | None]
    numbers: list[int]
    sources: list[int]
    scores: list[Any]
    stored_at_s: list[NDArray[np.float64]]
    rows: Matrix


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """Who predicted, and what of it is recorded. share: of the keys, 0 to 1; salt: for hashed keys."""

    model: str
    predictor: str
    version: str
    key_mode: KeyMode = "hashed"
    salt: str = ""
    share: float = 1.0
    with_features: bool = False


class SampledRows(NamedTuple):
    """The rows of some batches that are to be recorded, still as the predictor had them."""

    at_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    keys: list[Any]
    inference_ids: list[str | None]
    origins: list[RequestOrigin | None]
    numbers: list[int]
    sources: list[int]
    scores: list[Any]
    stored_at_s: NDArray[np.float64]
    rows: Matrix
    left_out: int = 0

    @property
    def request_ids(self) -> list[str | None]:
        """The id of each row's request: the header's, or else the V2 message's."""
        return [
            inference_id if origin is None or not origin.request_id else origin.request_id
            for origin, inference_id in zip(self.origins, self.inference_ids, strict=True)
        ]


class RecordBuilder:
    """Builds record batches for one loaded model."""

    def __init__(self, options: RecordOptions) -> None:
        self._options = options
        self._sources = pa.array(FEATURE_SOURCES)
        self._categories = [pa.array(f.codes, pa.string()) if f.is_category else None for f in CONTRACT.features]

    def sample(self, batches: Sequence[TakenRows]) -> SampledRows:
        """Take the rows that are in the sample out of some batches; left_out: how many rows are not."""
        stored_at_s = list(chain.from_iterable(batch.stored_at_s for batch in batches))
        sampled = SampledRows(
            np.repeat([batch.at_s for batch in batches], [len(batch.keys) for batch in batches]),
            np.array(_joined([batch.latency_ms for batch in batches])),
            _joined([batch.keys for batch in batches]),
            _joined([batch.inference_ids for batch in batches]),
            _joined([batch.origins for batch in batches]),
            _joined([batch.numbers for batch in batches]),
            _joined([batch.sources for batch in batches]),
            _joined([batch.scores for batch in batches]),
            np.concatenate(stored_at_s) if stored_at_s else np.empty(0),
            np.concatenate([batch.rows for batch in batches]),
        )
        share = self._options.share
        if share >= 1.0:
            return sampled
        keep = [sample_position(identity) < share for identity in _identities(sampled)]
        mask = np.array(keep, dtype=bool)
        return SampledRows(
            sampled.at_s[mask],
            sampled.latency_ms[mask],
            list(compress(sampled.keys, keep)),
            list(compress(sampled.inference_ids, keep)),
            list(compress(sampled.origins, keep)),
            list(compress(sampled.numbers, keep)),
            list(compress(sampled.sources, keep)),
            list(compress(sampled.scores, keep)),
            sampled.stored_at_s[mask],
            sampled.rows[mask],
            left_out=len(keep) - sum(keep),
        )

    def build(self, sampled: SampledRows, challengers: Sequence[ChallengerScores] = ()) -> pa.RecordBatch:
        """Return the records of some rows, with what each challenger scored for all of them."""
        size, options = len(sampled.keys), self._options
        columns = {
            "time": _times(sampled.at_s),
            "latency_ms": pa.array(sampled.latency_ms.round(3), pa.float64(), from_pandas=True),
            "request_id": pa.array(sampled.request_ids, pa.string()),
            "inference_id": pa.array(sampled.inference_ids, pa.string()),
            "row": pa.array(sampled.numbers, pa.int32()),
            "traceparent": pa.array(
                [None if origin is None else origin.traceparent or None for origin in sampled.origins], pa.string()
            ),
            "model": _constant(options.model, size),
            "predictor": _constant(options.predictor, size),
            "version": _constant(options.version, size),
            "source": self._sources.take(pa.array(sampled.sources, pa.int8())),
            "features_time": _times(sampled.stored_at_s, missing=0.0),
            "contract": _constant(CONTRACT.fingerprint, size),
            **self._keys(sampled.keys),
            **_scores(sampled.scores),
        }
        if options.with_features:
            columns["features"] = self._features(sampled.rows)
        if challengers:
            columns["challengers"] = _challengers(challengers, size)
        return pa.record_batch(
            [columns[field.name] if field.name in columns else pa.nulls(size, field.type) for field in SCHEMA],
            schema=SCHEMA,
        )

    def _keys(self, keys: list[Any]) -> dict[str, pa.Array]:
        mode, salt = self._options.key_mode, self._options.salt
        if CONTRACT.key is None:
            return {}  # the queries number their rows instead
        if mode == "plain":
            return {"key": pa.array([str(key) for key in keys], pa.string())}
        if mode == "hashed":
            hashes = pa.py_buffer(_key_hashes(salt, keys).encode())
            ends = pa.py_buffer(np.arange(0, HASH_DIGITS * (len(keys) + 1), HASH_DIGITS, dtype=np.int32))
            return {"key_hash": pa.StringArray.from_buffers(len(keys), ends, hashes)}
        return {}

    def _features(self, rows: Matrix) -> pa.Array:
        values = [
            pa.array(np.ascontiguousarray(rows[:, position]), pa.float32(), from_pandas=True)
            if categories is None
            else categories.take(pa.array(rows[:, position].astype(np.int32)))
            for position, categories in enumerate(self._categories)
        ]
        return pa.StructArray.from_arrays(values, fields=list(SCHEMA.field("features").type))


def _identities(sampled: SampledRows) -> Sequence[int | str]:
    """Return what decides whether each row is in the sample: its key.

    Without a key in the contract, its request's id, so that a request is in the sample with all its rows or not at all,
    in every predictor that got it; without an id either, its values.
    """
    if CONTRACT.key is not None:
        return sampled.keys
    return [
        row.tobytes().hex() if request_id is None else request_id
        for row, request_id in zip(sampled.rows, sampled.request_ids, strict=True)
    ]


def _joined(columns: Sequence[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(columns))


def take_rows(batch: ScoredBatch) -> TakenRows:
    """Take out of a batch what its records need, on the event loop.

    Column by column, while the batch is in the processor's cache: queries and results that wait for the records' thread
    cost twice as much by the memory that they keep from being used again.
    """
    stored = batch.fetched.updated_at if isinstance(batch.fetched, FetchedRows) else None
    queries, results = batch.queries, batch.results
    if stored is not None and len(stored) == len(batch.rows) == len(queries):
        return _take_single_rows(batch, stored)
    taken = TakenRows(batch.at_s, [], [], [], [], [], [], [], [], batch.rows)
    start = 0
    for query, result in zip(queries, results, strict=True):
        size = query.size
        part = None
        if stored is not None and query.needs_store:
            part = stored[start : start + size]
            start += size
        if isinstance(result, Exception):
            continue
        taken.stored_at_s.append(np.zeros(size) if part is None else part)
        taken.sources.extend(result.sources)
        taken.scores.extend(result.scores)
        taken.latency_ms.extend([_latency_ms(batch, query)] * size)
        taken.keys.extend(query.keys)
        taken.inference_ids.extend([query.inference_id] * size)
        taken.origins.extend([query.origin] * size)
        taken.numbers.extend(range(query.first_row, query.first_row + size))
    return taken


def _take_single_rows(batch: ScoredBatch, stored_at_s: NDArray[np.float64]) -> TakenRows:
    """Do the same for queries of one row each that all got it from the store: the usual batch."""
    queries, results = batch.queries, batch.results
    return TakenRows(
        batch.at_s,
        [_latency_ms(batch, query) for query in queries],
        [query.keys[0] for query in queries],
        [query.inference_id for query in queries],
        [query.origin for query in queries],
        [query.first_row for query in queries],
        [result.sources[0] for result in results],  # type: ignore[union-attr]  # no error: rows of all
        [result.scores[0] for result in results],  # type: ignore[union-attr]
        [stored_at_s],
        batch.rows,
    )


def _latency_ms(batch: ScoredBatch, query: Query) -> float:
    return nan if query.submitted_s is None else 1e3 * (batch.scored_s - query.submitted_s)


def _scores(scores: list[Any]) -> dict[str, pa.Array]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 1:
        return {"score": pa.array(values)}
    if values.shape[1] == 1:
        return {"score": pa.array(values[:, 0])}
    return {"scores": _lists(values)}


def _lists(values: NDArray[np.float64]) -> pa.Array:
    size, width = values.shape
    offsets = pa.array(np.arange(0, (size + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def _challengers(challengers: Sequence[ChallengerScores], size: int) -> pa.Array:
    """Return a list of {version, score, scores} for each row, in the challengers' order."""
    count = len(challengers)
    versions = pa.array([each.version for each in challengers])
    parts = []
    for each in challengers:
        columns = _scores(each.scores.tolist())
        parts.append(
            (columns.get("score", pa.nulls(size, pa.float64())), columns.get("scores", pa.nulls(size, _SCORES)))
        )
    # Row by row: the challengers of row 0, then those of row 1.
    order = pa.array(np.arange(size * count).reshape(count, size).T.reshape(-1))
    values = pa.StructArray.from_arrays(
        [
            versions.take(pa.array(np.tile(np.arange(count), size))),
            pa.concat_arrays([score for score, _ in parts]).take(order),
            pa.concat_arrays([scores for _, scores in parts]).take(order),
        ],
        fields=list(_CHALLENGER),
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(0, (size + 1) * count, count, dtype=np.int32)), values)


def _times(at_s: NDArray[np.float64], *, missing: float | None = None) -> pa.Array:
    micros = (at_s * 1e6).astype(np.int64)
    return pa.array(micros, pa.int64(), mask=None if missing is None else at_s == missing).cast(_TIME)


def _constant(value: str, size: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), size)


def utc(at_s: float) -> datetime:
    """Return unix seconds as a time in UTC."""
    return datetime.fromtimestamp(at_s, UTC)
