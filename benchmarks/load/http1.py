"""HTTP/1.1 with keep-alive: requests are bytes made once, answers go through httptools (C)."""

from __future__ import annotations

from collections.abc import Sequence

from httptools import HttpParserError, HttpResponseParser

from benchmarks.load.connection import GOOD, Answer
from benchmarks.load.target import Target

OK = 200
DETAIL_CHARACTERS = 200


def http1_requests(target: Target, path: str, bodies: Sequence[bytes]) -> list[bytes]:
    """Return whole POST requests, head and body, one for each body."""
    headers = [("Host", target.authority), ("Content-Type", "application/json"), ("User-Agent", "churn-load-test")]
    headers += [(name, value) for name, value in target.headers if name.lower() != "host"]
    head = f"POST {target.prefix}{path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


class Http1Codec:
    """One keep-alive connection."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.reusable = True
        self.control = bytearray()
        self._requests = requests
        self._parser = HttpResponseParser(self)
        self._complete = False

    def greeting(self) -> bytes:
        """HTTP/1.1 has none."""
        return b""

    def request(self, index: int) -> bytes:
        """Return the whole request."""
        return self._requests[index]

    def on_message_complete(self) -> None:
        """Httptools calls this at the end of a response; only now does it know whether the connection stays."""
        self._complete = True
        self.reusable = self._parser.should_keep_alive()

    def feed(self, data: bytes) -> Answer | None:
        """Parse; an answer is good when its status is 200."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise ValueError(f"not HTTP/1.1: {error}") from error
        if not self._complete:
            return None
        self._complete = False
        status = self._parser.get_status_code()
        if status == OK:
            return GOOD
        return Answer(f"HTTP {status}", data.partition(b"\r\n\r\n")[2][:DETAIL_CHARACTERS].decode(errors="replace"))
