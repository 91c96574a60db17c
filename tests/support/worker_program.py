"""A worker for the supervisor's tests: files in its directory, which is the argument, control how it serves.

`fail`: end at once. `slow`: be ready only when that file is gone. It writes `<pid>.ready`, and answers each connection
with its pid.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path


def main(directory: Path) -> int:
    if (directory / "fail").exists():
        return 3
    while (directory / "slow").exists():
        time.sleep(0.01)
    listener = socket.socket(fileno=int(os.environ["SERVING_LISTEN_FD"]))
    listener.listen(128)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (directory / f"{os.getpid()}.ready").touch()
    os.write(int(os.environ["SERVING_READY_FD"]), b"ready")
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(str(os.getpid()).encode())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
