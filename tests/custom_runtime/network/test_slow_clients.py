"""What the once-a-second look at all connections closes, and what it leaves alone."""

from dataclasses import dataclass, field
from typing import Any

from custom_runtime.network.slow_clients import SlowClients


@dataclass
class Transport:
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Cycle:
    response_complete: bool = True


@dataclass(eq=False)
class Connection:
    scope: Any = None
    cycle: Any = None
    timeout_keep_alive_task: Any = None
    transport: Any = field(default_factory=Transport)


def closed_at(connection: Connection) -> int | None:
    slow = SlowClients(headers_s=10, idle_s=75)
    for second in range(120):
        slow.sweep([connection], second)
        if connection.transport.closed:
            return second
    return None


def test_half_a_head_is_waited_for_ten_seconds_whichever_request_of_the_connection_it_is() -> None:
    assert closed_at(Connection(scope={})) == 11
    assert closed_at(Connection(scope={}, cycle=Cycle())) == 11


def test_a_connection_that_says_nothing_is_kept_as_long_as_an_idle_one() -> None:
    assert closed_at(Connection()) == 76


def test_a_request_in_flight_and_a_connection_that_uvicorn_times_itself_are_left_alone() -> None:
    assert closed_at(Connection(scope={}, cycle=Cycle(response_complete=False))) is None
    assert closed_at(Connection(scope={}, cycle=Cycle(), timeout_keep_alive_task=object())) is None


def test_every_request_starts_the_time_anew() -> None:
    slow, connection = SlowClients(headers_s=10, idle_s=75), Connection(scope={}, cycle=Cycle())
    for second in range(100):
        if second % 8 == 0:
            connection.cycle = Cycle()
        slow.sweep([connection], second)
    assert not connection.transport.closed
