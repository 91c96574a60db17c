"""How each server is asked for the same thing, and where its answer has the probability."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.corpus import Corpus
from benchmarks.payload import Protocol, customer_bodies, path_of, v2_grpc_message, v2_rest_body

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Question:
    """Bodies in the order of the corpus's customers. note: what is unlike the others, for the report."""

    path: str
    bodies: tuple[bytes, ...]
    read: Callable[[bytes], float]
    is_grpc: bool = False
    note: str = ""


def predict(corpus: Corpus) -> Question:
    """POST /predict with the customer's id."""
    bodies = customer_bodies(Protocol.PREDICT, "churn", corpus.customers)
    return Question("/predict", tuple(bodies), _predicted)


def bento_predict(corpus: Corpus) -> Question:
    """BentoML names the argument: {"input": {"customer_id": 42}}."""
    bodies = customer_bodies(Protocol.PREDICT, "churn", corpus.customers)
    return Question("/predict", tuple(b'{"input": %s}' % body for body in bodies), _predicted)


def v2_rest(corpus: Corpus) -> Question:
    """V2 REST, one row, the customer's id."""
    bodies = customer_bodies(Protocol.V2_REST, "churn", corpus.customers)
    return Question(path_of(Protocol.V2_REST, "churn"), tuple(bodies), _v2)


def v2_grpc(corpus: Corpus) -> Question:
    """V2 gRPC, one row, the customer's id."""
    bodies = customer_bodies(Protocol.V2_GRPC, "churn", corpus.customers)
    return Question(path_of(Protocol.V2_GRPC, "churn"), tuple(bodies), _v2_message, is_grpc=True)


STOCK_NOTE = "is sent the feature vector: the client has looked the features up before the clock starts"


def stock_rest(corpus: Corpus) -> Question:
    """V2 REST, one row, the feature vector."""
    bodies = [v2_rest_body("features", "FP32", row.tolist()) for row in corpus.rows]
    return Question(path_of(Protocol.V2_REST, "churn-xgboost"), tuple(bodies), _v2, note=STOCK_NOTE)


def stock_grpc(corpus: Corpus) -> Question:
    """V2 gRPC, one row, the feature vector."""
    bodies = [v2_grpc_message("churn-xgboost", "features", "FP32", row.tolist()) for row in corpus.rows]
    return Question(path_of(Protocol.V2_GRPC, "x"), tuple(bodies), _v2_message, is_grpc=True, note=STOCK_NOTE)


def big_batch(corpus: Corpus, rows: int) -> Question:
    """V2 REST with many customers in one request."""
    ids = [corpus.customers[number % len(corpus.customers)] for number in range(rows)]
    body = v2_rest_body("customer_id", "INT64", ids, rows=rows)
    return Question(path_of(Protocol.V2_REST, "churn"), (body,), _v2)


def constant(corpus: Corpus) -> Question:
    """Return what the bare ASGI app is asked; it answers a constant, so there is nothing to agree on."""
    return Question("/predict", predict(corpus).bodies, lambda answer: float("nan"))


def _predicted(answer: bytes) -> float:
    return float(json.loads(answer)["churn_probability"])


def _v2(answer: bytes) -> float:
    outputs = json.loads(answer)["outputs"]
    return float(next(output for output in outputs if output["name"] in ("churn_probability", "predict"))["data"][0])


def _v2_message(answer: bytes) -> float:
    # MLServer's generated code reads what this package's own encoder asked for.
    from mlserver.grpc.dataplane_pb2 import ModelInferResponse

    message = ModelInferResponse.FromString(answer)
    output = next(output for output in message.outputs if output.name in ("churn_probability", "predict"))
    contents = output.contents
    return float((contents.fp64_contents or contents.fp32_contents)[0])
