"""Runs the command blocks of one document as a reader would, in a network of their own; tests/instructions starts it.

Standard input: {"directory", "cluster", "blocks": [{"name", "script", "ready_url"}]}. Standard output: {"results"}, a
list of {"name", "code", "output"} of each block that ran, in order, and the end of each server; and {"left"}, the
command lines of what the blocks left running, which is ended. It is run in a network namespace (`unshare --net`):
nothing but loopback exists, so no block reaches the outside and ports as 8080 are free.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.documented_cluster import documented_cluster
from tests.support.leftovers import end_all_in_network
from tests.support.prometheus_api import Traffic, prometheus_api
from tests.support.seldon_operator import SeldonOperator

BLOCK_LIMIT_S = 500.0  # training takes ten seconds on an idle machine
READY_LIMIT_S = 240.0
STOP_LIMIT_S = 120.0
NAMESPACE = "churn"
GATEWAY_PORT, PROMETHEUS_PORT, REDIS_PORT = 8080, 9090, 6379


class Served:
    """A block that serves until it is interrupted."""

    def __init__(self, block: dict[str, Any], directory: str) -> None:
        self.name, self.ready_url = block["name"], block["ready_url"]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["bash", "-ec", block["script"]],
            cwd=directory,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> dict[str, Any]:
        """Wait until it answers."""
        deadline_s = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.ready_url, timeout=1):
                    return self._result(0)
            except OSError:
                time.sleep(0.05)
        return self._result(self.process.poll() or 124)

    def stop(self) -> dict[str, Any]:
        """Interrupt it as Ctrl-C in its terminal does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            code = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        self.name += ", interrupted"
        return self._result(code)

    def _result(self, code: int) -> dict[str, Any]:
        self.log.seek(0)
        return {"name": self.name, "code": code, "output": self.log.read()}


def run(block: dict[str, Any], directory: str) -> dict[str, Any]:
    """Run a block that ends by itself."""
    command = ["bash", "-e", "-o", "pipefail", "-c", block["script"]]
    try:
        done = subprocess.run(
            command, cwd=directory, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=BLOCK_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""
        return {"name": block["name"], "code": 124, "output": output}
    return {"name": block["name"], "code": done.returncode, "output": done.stdout}


def run_all(blocks: list[dict[str, Any]], directory: str) -> Iterator[dict[str, Any]]:
    """Run the blocks in order, up to the first that fails; one that serves ends the one before it."""
    served: Served | None = None
    try:
        for block in blocks:
            if block["ready_url"]:
                if served is not None:
                    yield served.stop()
                served = Served(block, directory)
                result = served.wait()
            else:
                result = run(block, directory)
            yield result
            if result["code"] not in block["allowed"]:
                return
    finally:
        last = served.stop() if served is not None else None
    if last is not None:
        yield last


@contextmanager
def gateway() -> Iterator[None]:
    """Answer predictions where Istio's gateway would."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            found = self.path == f"/seldon/{NAMESPACE}/churn/predict"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b'{"customer_id":42,"churn_probability":0.05,"model_version":"1","features":"store"}\n')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", GATEWAY_PORT), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def cluster(directory: Path) -> Iterator[None]:
    """A Kubernetes API with Seldon's operator, Prometheus and a gateway, as the runbook's commands find them."""
    with ExitStack() as stack:
        _, kubeconfig = stack.enter_context(documented_cluster(directory))
        os.environ["KUBECONFIG"] = str(kubeconfig)
        operator = stack.enter_context(SeldonOperator(str(kubeconfig), NAMESPACE))
        traffic = Traffic(lambda: operator.mesh_history[-1] if operator.mesh_history else {})
        stack.enter_context(prometheus_api(traffic, port=PROMETHEUS_PORT))
        stack.enter_context(gateway())
        yield


@contextmanager
def redis() -> Iterator[None]:
    """A Redis at its own port."""
    process = subprocess.Popen(
        ["redis-server", "--port", str(REDIS_PORT), "--save", "", "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def main() -> None:
    """Run what standard input asks for."""
    task = json.load(sys.stdin)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        stack.enter_context(redis())
        os.environ["PYTHONPATH"] = task["directory"]  # the copy's code, not that which the environment was made for
        if task["cluster"]:
            stack.enter_context(cluster(Path(scratch)))
        results = list(run_all(task["blocks"], task["directory"]))
    json.dump({"results": results, "left": end_all_in_network()}, sys.stdout)


if __name__ == "__main__":
    main()
