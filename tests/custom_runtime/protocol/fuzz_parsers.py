"""Coverage-guided fuzzing of the parsers: whatever the bytes, a value or InvalidInput comes back.

    python tests/custom_runtime/protocol/fuzz_parsers.py predict -runs=100000 -seed=1

The parsers: predict (POST /predict), v2 (V2 as JSON), proto (V2 as protobuf). A process of its own, because MLServer's
protobuf types and tritonclient's have the same names.
"""

import contextlib
import sys
from collections.abc import Sequence

import atheris
import numpy as np

with atheris.instrument_imports(include=["custom_runtime"]):
    from custom_runtime.errors import InvalidInput, TooLarge
    from custom_runtime.prediction.query import Query
    from custom_runtime.protocol import predict_json as predict_body
    from custom_runtime.protocol import v2, v2_json, v2_proto
    from custom_runtime.protocol import v2_proto as v2_message

MOST_ROWS = 1_000


def predict(data: bytes) -> None:
    query = predict_body.parse(data)
    assert query.size == 1


def _decode(tensors: Sequence[v2.Tensor]) -> Query:
    if v2.rows_of(tensors) > MOST_ROWS:
        raise TooLarge("as the runtime refuses it, before it touches the data")
    query = v2.decode(tensors)
    assert 1 <= query.size <= MOST_ROWS
    assert all(isinstance(key, int) and 0 <= key < 2**63 for key in query.keys)
    assert all(np.size(values) == query.size for values in query.given.values())
    return query


def json_body(data: bytes) -> None:
    v2_json.check_parts(data)
    request = v2_json.read_big(data)
    if request is not None:
        _decode(request.tensors)


def protobuf(data: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        v2_message._check_parts(data)  # otherwise only big messages are looked at
    message = v2_message.read_request(data)
    if message is not v2_message.UNREADABLE:
        _decode(v2_proto.read_tensors(message))


PARSERS = {"predict": predict, "v2": json_body, "proto": protobuf}


def main() -> None:
    parser = PARSERS[sys.argv.pop(1)]
    outcomes = {"value": 0, "refused": 0}

    def try_one(data: bytes) -> None:
        try:
            parser(data)
        except (InvalidInput, TooLarge) as error:
            str(error).encode("utf-8", "replace")
            outcomes["refused"] += 1
        else:
            outcomes["value"] += 1

    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
