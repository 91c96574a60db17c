"""Do all servers answer the same? Asked before anything is measured, for a sample of the customers."""

from __future__ import annotations

import http.client
import math

from benchmarks.corpus import Corpus
from benchmarks.errors import MeasurementError
from benchmarks.question import Question
from benchmarks.target import Target

TOLERANCE = 1e-5
STRIDE = 293  # 25 of the 7,043 customers; a prime, so that no pattern of the table is followed
TIMEOUT_S = 10.0


def sampled(corpus: Corpus) -> range:
    """Return the positions of the customers who are asked for."""
    return range(0, len(corpus.customers), STRIDE)


def answers(target: Target, question: Question, corpus: Corpus) -> list[float]:
    """Return a server's probabilities for the sample. Raises MeasurementError when it answers one with an error."""
    ask = _ask_grpc if question.is_grpc else _ask_rest
    return [ask(target, question, position) for position in sampled(corpus)]


def check_agreement(title: str, given: list[float], reference: list[float]) -> float:
    """Return the largest difference; NaN (a constant answer) is not compared. Raises MeasurementError beyond 1e-5."""
    differences = [abs(one - other) for one, other in zip(given, reference, strict=True) if not math.isnan(one)]
    largest = max(differences, default=0.0)
    if largest > TOLERANCE:
        raise MeasurementError(f"{title} disagrees by {largest:.2g}; allowed: {TOLERANCE:g}; nothing was measured")
    return largest


def _ask_rest(target: Target, question: Question, position: int) -> float:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", question.path, question.bodies[position], {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise MeasurementError(f"{target.authority}{question.path} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise MeasurementError(f"{target.authority}{question.path}: {response.status} {body[:200]!r}")
    return question.read(body)


def _ask_grpc(target: Target, question: Question, position: int) -> float:
    import grpc  # a client that nobody here wrote

    with grpc.insecure_channel(target.authority) as channel:
        call = channel.unary_unary(question.path)
        try:
            return question.read(call(question.bodies[position], timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            raise MeasurementError(f"{target.authority}{question.path}: {error}") from error
