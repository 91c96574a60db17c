"""Steady load that counts every request by phase, predictor and status; nothing is retried."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rollout.targets.envoy import PREDICTOR_HEADER

NO_ANSWER = 0
"""The status of a request whose connection failed or whose answer was too late."""
UNKNOWN = "-"
TIMEOUT_S = 10.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request. predictor: UNKNOWN if there was no answer."""

    status: int
    predictor: str


@dataclass
class Tally:
    """The requests of one phase. A request counts for the phase in which it was sent."""

    sent: int = 0
    answers: Counter[Answer] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Requests with any answer."""
        return sum(count for answer, count in self.answers.items() if answer.status != NO_ANSWER)

    @property
    def failed(self) -> int:
        """Requests without an answer, and answers of 500 and above."""
        return sum(count for answer, count in self.answers.items() if not 200 <= answer.status < 500)

    def failed_by(self, predictor: str) -> int:
        """Return the failures that one predictor answered with."""
        return sum(
            count for answer, count in self.answers.items() if answer.predictor == predictor and answer.status >= 500
        )

    def share(self, predictor: str) -> float:
        """Return the share of answers that one predictor gave."""
        by_predictor = sum(count for answer, count in self.answers.items() if answer.predictor == predictor)
        return by_predictor / self.answered if self.answered else 0.0


class Load:
    """POST requests at random moments (Poisson), over keep-alive connections, until `stop`."""

    def __init__(self, url: str, body: Callable[[random.Random], bytes], *, per_s: float, seed: int = 7) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._path = address.path or "/"
        self._body = body
        self._per_s = per_s
        self._random = random.Random(seed)  # noqa: S311 -- arrivals, not secrets
        self._idle: list[Connection] = []
        self._stopping = False
        self.phase = ""
        self.tallies: dict[str, Tally] = {}

    def stop(self) -> None:
        """Send nothing more; `run` returns when everything in flight is answered."""
        self._stopping = True

    @property
    def tally(self) -> Tally:
        """The tally of the current phase."""
        return self.tallies.setdefault(self.phase, Tally())

    async def run(self) -> None:
        """Send until `stop`. A late arrival is sent at once: the schedule does not wait for the answers."""
        due_s = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            while True:
                due_s += self._random.expovariate(self._per_s)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if self._stopping:
                    break
                tally = self.tally
                tally.sent += 1
                requests.create_task(self._request(self._body(self._random), tally))
        for _, writer in self._idle:
            writer.close()

    async def _request(self, body: bytes, tally: Tally) -> None:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                connection = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
                answer = await self._exchange(connection, body)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            answer = Answer(NO_ANSWER, UNKNOWN)
            if connection is not None:
                connection[1].close()
        else:
            self._idle.append(connection)
        tally.answers[answer] += 1

    async def _exchange(self, connection: Connection, body: bytes) -> Answer:
        reader, writer = connection
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        await reader.readexactly(int(headers["content-length"]) if "content-length" in headers else 0)
        return Answer(int(status_line.split()[1]), headers.get(PREDICTOR_HEADER.lower(), UNKNOWN))
