"""A server that starts in a tenth of a second, with what the controller needs and switches for failures.

STUB_SWITCHES names a directory; a file `unready` or `failing` in it, or `unready-<predictor>`, turns that on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

PREDICTOR = os.environ["PREDICTOR_ID"]
SWITCHES = Path(os.environ["STUB_SWITCHES"])


def is_on(switch: str) -> bool:
    return (SWITCHES / switch).exists() or (SWITCHES / f"{switch}-{PREDICTOR}").exists()


async def answer(path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    if path.startswith("/record"):
        with (SWITCHES / f"requests-{PREDICTOR}").open("a") as requests:
            requests.write(json.dumps({"path": path, **headers}) + "\n")
    if path.endswith("/ready"):
        return (503 if is_on("unready") else 200), b"{}"
    if path == "/die":
        os._exit(3)
    if path == "/slow":
        (SWITCHES / "slow-has-begun").touch()
        await asyncio.sleep(1.0)
    if path == "/environment":
        return 200, json.dumps(dict(os.environ)).encode()
    if path == "/prometheus":
        return 200, f'stub_up{{predictor="{PREDICTOR}"}} 1\n'.encode()
    return (503 if is_on("failing") else 200), f"{PREDICTOR} {os.getpid()}".encode()


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            await reader.readexactly(int(headers.get("content-length", 0)))
            status, body = await answer(lines[0].split()[1], headers)
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    if is_on("dying"):
        sys.exit(3)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    for port in ("MLSERVER_HTTP_PORT", "MLSERVER_METRICS_PORT"):
        await asyncio.start_server(serve_connection, "127.0.0.1", int(os.environ[port]))
    await stopping.wait()
    await asyncio.sleep(0.1)


asyncio.run(main())
