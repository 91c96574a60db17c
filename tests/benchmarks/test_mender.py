import socket

from benchmarks.connection import Connection
from benchmarks.errors import TargetError
from benchmarks.http1 import Http1Codec
from benchmarks.mender import Mender
from tests.programs import eventually


def test_a_target_that_comes_back_is_told_as_gone_and_then_connected() -> None:
    ours, theirs = socket.socketpair()
    attempts = [TargetError("refused"), Connection(ours, Http1Codec([]))]
    told: list[int] = []

    def connect() -> Connection:
        attempt = attempts.pop(0)
        if isinstance(attempt, TargetError):
            raise attempt
        return attempt

    mender = Mender(connect, lambda: told.append(len(mender.mended)))
    mender.start()
    mender.replace()
    try:
        eventually(lambda: len(told) == 2, within_s=10, what="an error and a connection")
    finally:
        mender.close()
        theirs.close()
    assert told == [1, 2]
    assert [type(one) for one in mender.mended] == [TargetError, Connection]
    assert ours.fileno() == -1  # nobody took it


def test_a_mender_is_closed_while_its_target_is_gone() -> None:
    def connect() -> Connection:
        raise TargetError("refused")

    mender = Mender(connect, lambda: None)
    mender.start()
    mender.replace()
    eventually(lambda: len(mender.mended) > 0, within_s=10, what="an error")
    mender.close()
    assert all(isinstance(one, TargetError) for one in mender.mended)
