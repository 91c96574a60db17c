"""One row of the records: every column, the key, the sample, several classes, challengers."""

import hmac
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import custom_runtime.records.record as record_module
from custom_runtime.active import CONTRACT
from custom_runtime.errors import UnknownKey
from custom_runtime.features.store import FetchedRows
from custom_runtime.prediction.challengers import ChallengerScores
from custom_runtime.prediction.query import DEFAULT, REQUEST, STORE, Prediction, Query
from custom_runtime.records.record import (
    SCHEMA,
    KeyMode,
    RecordBuilder,
    RecordOptions,
    ScoredBatch,
    key_hash,
    sample_position,
)
from custom_runtime.tracing import RequestOrigin
from tests.support.record_batches import AT_S, STORED_AT_S, batch_of, batch_of_keys, plain_builder, rows_of, sampled

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def build(builder: RecordBuilder, *batches: ScoredBatch) -> list[dict[str, object]]:
    return builder.build(sampled(builder, *batches)).to_pylist()


def test_a_record_has_every_column_of_its_prediction() -> None:
    query = Query((42,), {}, inference_id="v2-1", origin=RequestOrigin("r-1", TRACEPARENT), submitted_s=7.0)
    (record,) = build(plain_builder(), batch_of([query])._replace(scored_s=7.0125))
    assert record.pop("features") == pytest.approx(
        {feature.name: pytest.approx(feature.example) for feature in CONTRACT.features}
    )
    assert record == {
        "time": datetime.fromtimestamp(AT_S, UTC),
        "request_id": "r-1",
        "inference_id": "v2-1",
        "row": 0,
        "traceparent": TRACEPARENT,
        "model": "churn",
        "predictor": "v7",
        "version": "7",
        "key": "42",
        "key_hash": None,
        "score": 0.042,
        "scores": None,
        "latency_ms": 12.5,
        "source": "store",
        "features_time": datetime.fromtimestamp(STORED_AT_S, UTC),
        "challengers": None,
        "contract": CONTRACT.fingerprint,
    }


def test_the_request_id_is_the_headers_or_else_the_messages() -> None:
    queries = [
        Query((1,), {}, inference_id="v2-1"),
        Query((2,), {}, inference_id="v2-2", origin=RequestOrigin("", TRACEPARENT)),
        Query((3,), {}),
    ]
    records = build(plain_builder(), batch_of(queries))
    assert [record["request_id"] for record in records] == ["v2-1", "v2-2", None]
    assert [record["traceparent"] for record in records] == [None, TRACEPARENT, None]


def test_rows_of_a_batch_are_numbered_as_in_the_callers_request() -> None:
    whole, slice_of_more = Query([5, 6, 7], {}, inference_id="a"), Query([8, 9], {}, first_row=256, inference_id="b")
    records = build(plain_builder(), batch_of([whole, slice_of_more]))
    assert [(record["inference_id"], record["row"], record["key"]) for record in records] == [
        ("a", 0, "5"),
        ("a", 1, "6"),
        ("a", 2, "7"),
        ("b", 256, "8"),
        ("b", 257, "9"),
    ]


def test_the_latency_is_that_of_each_query_for_all_its_rows_and_missing_where_nobody_measured_it() -> None:
    queries = [Query((1,), {}, submitted_s=10.0), Query([2, 3], {}, submitted_s=10.25), Query((4,), {})]
    records = build(plain_builder(), batch_of(queries)._replace(scored_s=10.5))
    assert [record["latency_ms"] for record in records] == [500.0, 250.0, 250.0, None]


def test_a_query_with_an_error_is_no_record_and_shifts_none() -> None:
    given = dict(enumerate(rows_of(1)[0].tolist()))
    queries = [Query((1,), {}), Query((2,), {}), Query((3,), given), Query((4,), {})]
    results: list[Prediction | Exception] = [
        UnknownKey("no row"),
        Prediction([0.2], [STORE]),
        Prediction([0.3], [REQUEST]),
        Prediction([0.4], [DEFAULT]),
    ]
    # The store was asked for 1, 2 and 4; it has no row of 1 and 4.
    fetched = FetchedRows(rows_of(3), np.array([0.0, STORED_AT_S, 0.0]))
    records = build(plain_builder(), ScoredBatch(AT_S, queries, rows_of(3), results, fetched))
    assert [(record["key"], record["score"], record["source"]) for record in records] == [
        ("2", 0.2, "store"),
        ("3", 0.3, "request"),
        ("4", 0.4, "default"),
    ]
    assert [record["features_time"] is not None for record in records] == [True, False, False]


def test_a_key_is_hashed_with_the_salt_or_left_out() -> None:
    hashed = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="hashed", salt="s" * 16))
    (record,) = build(hashed, batch_of_keys(42))
    assert (record["key"], record["key_hash"]) == (None, key_hash("s" * 16, 42))
    assert key_hash("s" * 16, 42) == key_hash("s" * 16, "42") != key_hash("t" * 16, 42)
    omitted = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="omitted"))
    (record,) = build(omitted, batch_of_keys(42))
    assert (record["key"], record["key_hash"], record["features"]) == (None, None, None)


@pytest.mark.parametrize("mode", ["plain", "hashed"])
def test_without_a_key_in_the_contract_a_record_has_none(mode: KeyMode, monkeypatch: pytest.MonkeyPatch) -> None:
    keyless = SimpleNamespace(key=None, features=CONTRACT.features, fingerprint=CONTRACT.fingerprint)
    monkeypatch.setattr(record_module, "CONTRACT", keyless)
    builder = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode=mode, salt="s" * 16))
    (record,) = build(builder, batch_of_keys(0))  # the number of the row
    assert (record["key"], record["key_hash"]) == (None, None)


def test_the_sample_is_of_keys_and_the_same_everywhere() -> None:
    keys = range(7_043)
    first, second = (
        RecordBuilder(RecordOptions("churn", name, name, key_mode="plain", share=0.1)) for name in ("v7", "v8")
    )
    taken = sampled(first, batch_of_keys(*keys))
    assert taken.keys == sampled(second, batch_of_keys(*keys)).keys
    assert taken.keys == [key for key in keys if sample_position(key) < 0.1]
    assert len(taken.keys) + taken.left_out == 7_043
    assert len(taken.keys) / 7_043 == pytest.approx(0.1, abs=0.015)
    assert first.build(taken)["score"].to_pylist() == [key / 1000 for key in taken.keys]
    wider = sampled(RecordBuilder(RecordOptions("churn", "v9", "9", share=0.2)), batch_of_keys(*keys))
    assert set(taken.keys) < set(wider.keys)


def keyless_batch(numbers: range, *, with_ids: bool = True) -> ScoredBatch:
    """Requests of three rows each, whose keys are the rows' numbers; every request has values of its own."""
    queries = [Query(range(3), {}, origin=RequestOrigin(f"r-{number}", "") if with_ids else None) for number in numbers]
    batch = batch_of(queries)
    batch.rows[:, 0] = np.repeat(np.array(numbers, dtype=np.float32), 3)
    return batch


def test_without_a_key_the_sample_is_of_requests_and_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    keyless = SimpleNamespace(key=None, features=CONTRACT.features, fingerprint=CONTRACT.fingerprint)
    monkeypatch.setattr(record_module, "CONTRACT", keyless)
    first, second = (RecordBuilder(RecordOptions("prices", name, name, share=0.2)) for name in ("v7", "v8"))
    chosen = sampled(first, keyless_batch(range(2_000)))
    assert len(chosen.keys) / 6_000 == pytest.approx(0.2, abs=0.03)
    assert len(chosen.keys) + chosen.left_out == 6_000
    # A request is in with all its rows, or not at all, whatever else is in its batch.
    assert chosen.numbers == [0, 1, 2] * (len(chosen.numbers) // 3)
    again = sampled(second, keyless_batch(range(1_000, 2_000)))
    assert again.request_ids == [name for name in chosen.request_ids if name and int(name[2:]) >= 1_000]


def test_without_a_key_and_an_id_the_values_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    keyless = SimpleNamespace(key=None, features=CONTRACT.features, fingerprint=CONTRACT.fingerprint)
    monkeypatch.setattr(record_module, "CONTRACT", keyless)
    builder = RecordBuilder(RecordOptions("prices", "v7", "7", share=0.2))
    once, twice = (sampled(builder, keyless_batch(range(2_000), with_ids=False)) for _ in range(2))
    assert len(once.keys) / 6_000 == pytest.approx(0.2, abs=0.03)
    assert once.rows[:, 0].tolist() == twice.rows[:, 0].tolist()


def test_scores_of_several_classes_are_a_list() -> None:
    batch = batch_of_keys(1, 2)
    results = [Prediction([[0.1, 0.2, 0.7]], [STORE]), Prediction([[0.5, 0.25, 0.25]], [STORE])]
    challenger = ChallengerScores("8", np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32))
    builder = plain_builder()
    first, second = builder.build(sampled(builder, batch._replace(results=results)), [challenger]).to_pylist()
    assert (first["score"], first["scores"]) == (None, [0.1, 0.2, 0.7])
    assert second["scores"] == [0.5, 0.25, 0.25]
    assert second["challengers"] == [{"version": "8", "score": None, "scores": [0.0, 0.0, 1.0]}]


def test_challengers_stand_beside_each_row() -> None:
    builder = plain_builder()
    scores = [
        ChallengerScores("8", np.array([0.5, 0.25, 0.125], dtype=np.float32)),
        ChallengerScores("9", np.array([0.75, 1.0, 0.0], dtype=np.float32)),
    ]
    records = builder.build(sampled(builder, batch_of_keys(1, 2, 3)), scores).to_pylist()
    found = [[(each["version"], each["score"], each["scores"]) for each in record["challengers"]] for record in records]
    assert found == [
        [("8", 0.5, None), ("9", 0.75, None)],
        [("8", 0.25, None), ("9", 1.0, None)],
        [("8", 0.125, None), ("9", 0.0, None)],
    ]


def test_a_missing_number_is_null() -> None:
    batch = batch_of_keys(1)
    position = next(index for index, feature in enumerate(CONTRACT.features) if not feature.is_category)
    batch.rows[0, position] = np.nan
    (record,) = build(plain_builder(), batch)
    features = record["features"]
    assert isinstance(features, dict)
    assert features[CONTRACT.features[position].name] is None


def test_the_schema_names_its_contract() -> None:
    assert SCHEMA.metadata == {b"contract": CONTRACT.fingerprint.encode()}
    assert plain_builder().build(sampled(plain_builder(), batch_of_keys(1))).schema.equals(SCHEMA, check_metadata=True)
    assert SCHEMA.field("time").type == pa.timestamp("us", tz="UTC")


@given(st.text(min_size=1, max_size=200), st.one_of(st.integers(), st.text()))
def test_a_hashed_key_is_the_standard_librarys_hmac(salt: str, key: int | str) -> None:
    assert key_hash(salt, key) == hmac.digest(salt.encode(), str(key).encode(), "sha256")[:16].hex()
