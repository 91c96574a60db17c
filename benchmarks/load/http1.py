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
    headers = [("Host", target.authority), ("Content-Type", "application/json"), ("User-Agent", "serving-load-test")]
    headers += [(name, value) for name, value in target.headers if name.lower() != "host"]
    head = f"POST {target.prefix}{path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


class Http1Codec:
    """One keep-alive connection."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.reusable = True
        self._requests = requests
        self._parser = HttpResponseParser(self)
        self._complete = False

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


class ResponseParser:
    """Parses one response with its headers and body, for callers that need them."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._parser = HttpResponseParser(self)

    @property
    def status(self) -> int:
        """The status code, once the head has arrived."""
        return int(self._parser.get_status_code())

    def feed(self, data: bytes) -> None:
        """Parse what arrived. Raises ValueError when it is not HTTP/1.1."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise ValueError(f"not HTTP/1.1: {error}") from error

    def on_header(self, name: bytes, value: bytes) -> None:
        """Httptools calls this for each header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Httptools calls this for each piece of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Httptools calls this at the end of the answer."""
        self.complete = True
