"""A `/predict` request as its bytes, and HTTP/1.1 answers read one by one from a stream that may hold several."""

import asyncio
import json
from collections.abc import Mapping
from typing import NamedTuple

BODY = b'{"customer_id": 42}'
REQUEST = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Reply(NamedTuple):
    """One answer; code is the service's own error code, empty for none."""

    status: int
    code: str
    body: bytes
    headers: Mapping[str, str]


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one answer with a Content-Length, and no byte more."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    status = int(head[0].split(" ")[1])
    return Reply(status, "" if status < 400 else json.loads(body)["code"], body, headers)
