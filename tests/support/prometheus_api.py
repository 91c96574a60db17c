"""Prometheus' query for the last scrapes of the service's two histograms, with traffic that follows given weights."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from rollout.analysis.counts import LATENCY_EDGES_MS, SCORE_BINS

FAST_EDGE_MS = 5.0


class Traffic:
    """Requests since the start; weights: percent per predictor now. errors: the share of a predictor's 5xx."""

    def __init__(self, weights: Callable[[], Mapping[str, int]], *, per_s: float = 100_000.0) -> None:
        self.errors: dict[str, float] = {}
        self.down = False
        self._weights = weights
        self._per_s = per_s
        self._last_s = time.monotonic()
        self._served: dict[tuple[str, str], float] = {}
        self._scraped: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def matrix(self) -> list[dict[str, Any]]:
        """Scrape, and return the last scrapes of every series."""
        with self._lock:
            now_s = time.monotonic()
            passed_s, self._last_s = now_s - self._last_s, now_s
            for name, weight in self._weights().items():
                requests = passed_s * self._per_s * weight / 100
                failed = requests * self.errors.get(name, 0.0)
                for code, count in (("200", requests - failed), ("500", failed)):
                    self._served[name, code] = self._served.get((name, code), 0.0) + count
            served = {key: int(count) for key, count in self._served.items()}
            scraped_s = time.time()  # all series of one scrape have its time
            for (name, code), count in served.items():
                for series in _series(name, code, count, scraped_s):
                    known = self._scraped.setdefault(json.dumps(series["metric"]), {**series, "values": []})
                    known["values"] = [*known["values"][-9:], series["value"]]
            return [{"metric": series["metric"], "values": list(series["values"])} for series in self._scraped.values()]


def _series(name: str, code: str, count: int, at_s: float) -> Iterator[dict[str, Any]]:
    own = {"predictor": name, "model": "churn", "version": name[1:], "pod": f"churn-{name}-0"}
    for edge_ms in (*LATENCY_EDGES_MS, math.inf):
        labels = {**own, "route": "predict", "code": code, "le": _le(edge_ms / 1000)}
        yield _sample("serving_request_seconds_bucket", labels, count if edge_ms >= FAST_EDGE_MS else 0, at_s)
    if code == "200":
        for edge in (*((i + 1) / SCORE_BINS for i in range(SCORE_BINS)), math.inf):
            yield _sample("serving_score_bucket", {**own, "le": _le(edge)}, int(count * min(edge, 1.0)), at_s)


def _le(edge: float) -> str:
    return "+Inf" if math.isinf(edge) else repr(edge)


def _sample(name: str, labels: dict[str, str], value: int, at_s: float) -> dict[str, Any]:
    return {"metric": {"__name__": name, **labels}, "value": [at_s, str(value)]}


@contextmanager
def prometheus_api(traffic: Traffic, *, port: int = 0) -> Iterator[str]:
    """Serve on a port, 0: a free one; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["query"][0]
            kind = "matrix" if query.endswith("]") else "vector"
            found = traffic.matrix() if kind == "matrix" and "serving_" in query else []
            body = json.dumps({"status": "success", "data": {"resultType": kind, "result": found}})
            self.send_response(503 if traffic.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
