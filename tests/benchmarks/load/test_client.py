""""""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.errors import TargetError
from benchmarks.load.client import Client
from benchmarks.load.connection import Connection, Done, Reconnector
from benchmarks.load.http1 import Http1Codec, http1_requests
from benchmarks.load.target import parse_target
from tests.support.answering import Reply, answering, ok
from tests.support.programs import eventually


@contextmanager
def connected(
    reply: Callable[[int], Reply], bodies: Sequence[bytes], connections: int
) -> Iterator[tuple[Client, list[Done]]]:
    done: list[Done] = []
    with answering(reply) as port:
        target = parse_target(f"http://127.0.0.1:{port}")
        codec = partial(Http1Codec, http1_requests(target, "/predict", bodies))
        client = Client(
            target,
            codec,
            connections=connections,
            timeout_s=20,
            on_done=done.extend,
        )
        client.open()
        try:
            yield client, done
        finally:
            client.close()


def test_every_request_is_answered_once_whatever_the_number_of_connections() -> None:
    with connected(lambda number: ok(), [b"{}"], 3) as (client, done):
        client.submit(range(100), [0] * 100)
        eventually(lambda: len(done) == 100, what="100 answers")
    assert sorted(one.request.response_id for one in done) == list(range(100))
    assert not any(one.error for one in done)


def test_requests_leave_in_the_order_in_which_they_were_issued() -> None:
    with connected(lambda number: ok(), [b"{}"], 1) as (client, done):
        client.submit(range(50), [0] * 50)
        eventually(lambda: len(done) == 50, what="50 answers")
    assert [one.request.response_id for one in done] == list(range(50))


def test_a_body_larger_than_the_sockets_buffers_arrives_whole() -> None:
    with connected(lambda number: ok(), [b"x" * 8_000_000], 2) as (client, done):
        client.submit([1, 2, 3], [0, 0, 0])
        eventually(lambda: len(done) == 3, what="3 answers")
    assert not any(one.error for one in done)


def test_a_server_that_is_gone_fails_what_waits_at_once() -> None:
    with connected(lambda number: None, [b"{}"], 2) as (client, done):
        client.submit(range(4), [0] * 4)
        eventually(lambda: len(done) == 4, what="4 failures")
    assert {one.error for one in done} == {"connection closed"}


def test_a_target_that_comes_back_is_told_as_gone_and_then_connected() -> None:
    ours, theirs = socket.socketpair()
    attempts: list[TargetError | Connection] = [TargetError("refused"), Connection(ours, Http1Codec([]))]
    seen: list[int] = []

    def connect() -> Connection:
        attempt = attempts.pop(0)
        if isinstance(attempt, TargetError):
            raise attempt
        return attempt

    reconnector = Reconnector(connect, lambda: seen.append(len(reconnector.replacements)))
    reconnector.start()
    reconnector.replace()
    try:
        eventually(lambda: len(seen) == 2, what="an error and a connection")
    finally:
        reconnector.close()
        theirs.close()
    assert seen == [1, 2]
    assert [type(one) for one in reconnector.replacements] == [TargetError, Connection]
    assert ours.fileno() == -1  # nobody took it


def test_a_mender_is_closed_while_its_target_is_gone() -> None:
    def connect() -> Connection:
        raise TargetError("refused")

    reconnector = Reconnector(connect, lambda: None)
    reconnector.start()
    reconnector.replace()
    eventually(lambda: len(reconnector.replacements) > 0, what="an error")
    reconnector.close()
    assert all(isinstance(one, TargetError) for one in reconnector.replacements)
