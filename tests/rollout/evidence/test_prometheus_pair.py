"""Two real Prometheus servers behind one address, as in a highly available pair: one of them is always behind."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from rollout.analysis.counts import Arm, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GateState, update
from rollout.analysis.verdict import Verdict
from rollout.evidence.prometheus import PrometheusSource
from tests.support.metric_processes import Exporter, Prometheus, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Run a server on a free port and yield the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    """Answers without a log."""

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Containers:
    """What kube-state-metrics exports of the pods' containers."""

    port: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)

    def page(self) -> str:
        lines = ["# TYPE kube_pod_container_status_restarts_total counter"]
        labels = 'namespace="",container="model"'
        for pod, count in self.restarts.items():
            lines.append(f'kube_pod_container_status_restarts_total{{pod="{pod}",{labels}}} {count}')
        lines.append("# TYPE kube_pod_container_status_last_terminated_reason gauge")
        for pod in self.killed:
            lines.append(
                f'kube_pod_container_status_last_terminated_reason{{pod="{pod}",{labels},reason="OOMKilled"}} 1'
            )
        return "\n".join(lines) + "\n"


@dataclass
class Pair:
    """Both servers: the first scrapes twice a second, the second every three seconds. turn: which one answers."""

    servers: tuple[Prometheus, Prometheus]
    containers: Containers
    url: str = ""
    turn: int = 0


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    known = Containers()

    class Page(Quiet):
        def do_GET(self) -> None:
            self.answer(known.page().encode(), "text/plain; version=0.0.4")

    for known.port in serving(Page):
        yield known


@pytest.fixture(scope="module")
def pair(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    def directory(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    first = Prometheus(directory("first"), 4, containers=containers.port)
    second = Prometheus(directory("second"), beside=first, containers=containers.port, interval="3s")
    both = Pair((first, second), containers)

    class Address(Quiet):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": self.headers["Content-Type"]}
            answer = httpx.post(f"{both.servers[both.turn].url}{self.path}", content=form, headers=headers)
            self.answer(answer.content, "application/json")

    try:
        for port in serving(Address):
            both.url = f"http://127.0.0.1:{port}"
            yield both
    finally:
        second.stop()
        first.stop()


@dataclass
class Watched:
    """One pod of a version with a name of its own, known to both servers, and the source that reads it."""

    pair: Pair
    pod: Exporter
    source: PrometheusSource
    counted: int = 0

    def count(self, requests: int) -> None:
        self.pod.count(requests)
        self.counted += requests

    def known(self, server: int) -> float:
        query = f'sum(serving_request_seconds_count{{predictor="{self.pod.predictor}"}})'
        return self.pair.servers[server].ask(query)

    def read(self, server: int) -> Counts:
        self.pair.turn = server
        return self.source.sample([self.pod.predictor]).arms.get(self.pod.predictor, Arm()).total


@pytest.fixture
def watched(pair: Pair, pod: Callable[..., Exporter], keep: Callable[[PrometheusSource], PrometheusSource]) -> Watched:
    exporter = pod(f"v8.{uuid.uuid4().hex[:8]}", pair.servers[0].take())
    seen = Watched(pair, exporter, keep(PrometheusSource(pair.url, lookback_s=30.0)))
    exporter.count(1000)
    for server in (0, 1):
        until(lambda server=server: seen.known(server), lambda value: value == 1000)  # type: ignore[misc]
    assert seen.read(0).requests == 0
    return seen


def test_a_counter_that_steps_back_between_the_servers_is_no_restart(watched: Watched) -> None:
    """Each such step was read as a restart, which fabricated 61.9 million requests in one rollout."""
    steps_back = 0
    while steps_back < 3:
        watched.count(7)
        until(lambda: watched.read(0).requests, lambda requests: requests == watched.counted)
        if watched.known(1) < watched.known(0):
            steps_back += 1
            behind = watched.read(1)
            assert (behind.requests, behind.restarts) == (watched.counted, 0)
    assert watched.read(0) == watched.read(1)


def test_a_restart_is_one_and_counts_on_whichever_server_answers(watched: Watched) -> None:
    watched.count(20)
    until(lambda: watched.read(0).requests, lambda requests: requests == 20)
    watched.pod.restart()
    watched.count(3)
    until(lambda: watched.read(0), lambda counts: (counts.requests, counts.restarts) == (23, 1))
    until(lambda: watched.known(1), lambda value: value == 3)
    for server in (1, 0, 1):
        assert (watched.read(server).requests, watched.read(server).restarts) == (23, 1)


def test_containers_that_restart_or_run_out_of_memory_are_evidence(watched: Watched) -> None:
    name, known = f"pod-{watched.pod.port}", watched.pair.containers
    known.restarts[name] = 5  # before the rollout
    query = f'kube_pod_container_status_restarts_total{{pod="{name}"}}'
    for server in watched.pair.servers:
        until(lambda server=server: server.ask(query), lambda value: value == 5)  # type: ignore[misc]
    assert watched.read(0).restarts == 0
    known.restarts[name] = 7
    known.killed.add(name)
    seen = until(lambda: watched.read(0), lambda counts: counts.restarts == 2)
    assert seen.oom_kills == 2
    behind = watched.read(1)
    assert (behind.restarts, behind.oom_kills) == (2, 2)
    _, results = update(GateConfig(), GateState(), Arm.of(Counts()), Arm.of(behind))
    restarts = next(result for result in results if result.name == "restarts")
    assert restarts.verdict is Verdict.FAIL
    assert "2 restarts (2 out of memory) on 1 pods" in restarts.reason
