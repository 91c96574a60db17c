"""The controller's port: pages behind a token, read only; health and metrics without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from rollout.analysis.counts import Counts
from rollout.controller.history import History, HistoryWriter
from rollout.controller.metrics import RolloutCollector
from rollout.controller.overview import Overview
from rollout.controller.server import Server, presented
from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import Phase, RolloutState
from rollout.errors import ReportError, RolloutError
from tests.support.programs import GUARD_S
from tests.support.rollout_world import PLAN, FakeClock

TOKEN = "s3cret-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BEGUN_S = 1_800_000_000.0


def state(**changes: object) -> RolloutState:
    begun = RolloutState("0a1b2c3d", PLAN, "v7", "v8", phase=Phase.PROGRESSING, step=1, started_at_s=BEGUN_S)
    return begun.but(message="30 % to v8, 70 % to v7").but(**changes)


def record(event: str, at_s: float, of: RolloutState) -> Record:
    return Record(
        at_s, event, "churn", of.stable, of.canary, of.step, of.weights,
        counts={"v7": Counts(requests=70), "v8": Counts(requests=30)}, message=of.message, phase=of.phase.value,
    )  # fmt: skip


@dataclass
class Site:
    overview: Overview
    history: History
    client: httpx.Client
    clock: FakeClock

    def write(self, namespace: str, name: str, *states: RolloutState) -> None:
        writer = HistoryWriter(self.history, namespace, name)
        for index, one in enumerate(states):
            writer.notify(record(f"Event{index}", BEGUN_S + index, one), one)


@contextmanager
def serving(directory: Path, token: str = TOKEN) -> Iterator[Site]:
    clock = FakeClock()
    overview, history, registry = Overview(clock, "controller@here"), History(directory), CollectorRegistry()
    registry.register(RolloutCollector(overview))
    server = Server(overview, history, registry, token=token, host="127.0.0.1", port=0)
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=GUARD_S) as client:
            yield Site(overview, history, client, clock)
    finally:
        server.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as site:
        yield site


@pytest.mark.parametrize("path", ["/", "/rollouts.json", "/rollouts/models/churn/0a1b2c3d"])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}])
def test_no_page_without_the_token(site: Site, path: str, header: dict[str, str]) -> None:
    site.write("models", "churn", state())
    answer = site.client.get(path, headers=header)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert "v8" not in answer.text


def test_a_browser_gives_the_token_as_a_password(site: Site) -> None:
    assert site.client.get("/", auth=("anybody", TOKEN)).status_code == 200
    assert presented("bearer x") == b"x"


def test_the_pages_change_nothing(site: Site) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert site.client.request(method, "/", headers=BEARER).status_code == 405


def test_without_a_token_there_are_no_pages_at_all(tmp_path: Path) -> None:
    with serving(tmp_path, token="") as site:
        assert site.client.get("/", auth=("anybody", "")).status_code == 404
        assert site.client.get("/healthz").text == "ok\n"


def test_the_index_shows_running_and_past_rollouts(site: Site) -> None:
    """One runs, one is over with its log, one is over without; nothing of a state is markup."""
    over = state(id="0000beef", phase=Phase.SUCCEEDED, message="v8 serves <b>alone</b>")
    site.write("shop", "rank", over)
    site.write("models", "churn", state())
    site.overview.found("models", "churn", state())
    site.overview.found("shop", "rank", over)
    site.overview.found("old", "gone", state(id="00000001", phase=Phase.ROLLED_BACK, message="errors"))
    site.overview.driven("models", "churn", "controller@here")
    page = site.client.get("/", headers=BEARER)
    assert page.headers["Refresh"] == "5"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "Under way (1)" in page.text
    assert "Past (2)" in page.text
    assert 'href="rollouts/models/churn/0a1b2c3d"' in page.text
    assert 'href="rollouts/shop/rank/0000beef"' in page.text
    assert "controller@here, since" in page.text
    assert "its log is not here" in page.text
    assert "serves &lt;b&gt;alone" in page.text
    assert "churn-serving rollout pause churn -n models" in page.text
    facts = json.loads(site.client.get("/rollouts.json", headers=BEARER).text)
    assert [(one["deployment"], one["phase"], one["driver"]) for one in facts] == [
        ("churn", "Progressing", "controller@here"), ("gone", "RolledBack", ""), ("rank", "Succeeded", ""),
    ]  # fmt: skip


def test_the_page_of_a_rollout_is_the_report_and_renews_itself_while_it_runs(site: Site) -> None:
    site.write("models", "churn", state(step=0), state())
    site.overview.found("models", "churn", state())
    running = site.client.get("/rollouts/models/churn/0a1b2c3d", headers=BEARER)
    assert "30 % to v8, 70 % to v7" in running.text
    assert "Refresh" in running.headers
    site.overview.found("models", "churn", state(phase=Phase.SUCCEEDED))
    assert "Refresh" not in site.client.get("/rollouts/models/churn/0a1b2c3d", headers=BEARER).headers


@pytest.mark.parametrize("path", ["models/churn/ffffffff", "models/%2e%2e/0a1b2c3d", "..%2f..%2fetc/passwd/x"])
def test_a_page_of_no_rollout_is_404_and_no_file_is_read_elsewhere(site: Site, path: str) -> None:
    assert site.client.get(f"/rollouts/{path}", headers=BEARER).status_code == 404


def test_names_that_are_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="there is no rollout"):
        History(tmp_path).records("..", "churn", "0a1b2c3d")


def test_the_metrics_say_which_rollouts_are_under_way_and_when_their_driver_was_seen(site: Site) -> None:
    site.overview.found("models", "churn", state())
    site.overview.found("shop", "rank", state(id="0000beef", phase=Phase.SUCCEEDED))
    site.clock.sleep(50)
    site.overview.driven("models", "churn", "runner-7")
    lines = site.client.get("/metrics").text.splitlines()
    assert 'serving_rollout_under_way{deployment="churn",namespace="models"} 1.0' in lines
    assert 'serving_rollout_under_way{deployment="rank",namespace="shop"} 0.0' in lines
    (seen,) = (line for line in lines if line.startswith("serving_rollout_driver_seen_seconds{"))
    assert float(seen.split()[-1]) == site.clock.wall_s()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    parts = (Overview(FakeClock(), "one"), History(tmp_path), registry)
    first = Server(*parts, token="", host="127.0.0.1", port=0)
    first.start()
    try:
        with pytest.raises(RolloutError, match="cannot listen on 127"):
            Server(*parts, token="", host="127.0.0.1", port=first.port).start()
    finally:
        first.close()


def test_a_log_keeps_changes_and_ever_fewer_samples(tmp_path: Path) -> None:
    """A week at one sample each 5 s would be 120,960 lines."""
    history, now = History(tmp_path), state()
    writer = HistoryWriter(history, "models", "churn")
    for index in range(0, 7 * 86400, 50):
        writer.notify(record(SAMPLE, BEGUN_S + index, now), now)
    writer.notify(record("Promoted", BEGUN_S + 7 * 86400, now), now)
    records = history.records("models", "churn", now.id)
    assert 200 < len(records) < 2000
    assert records[-1].event == "Promoted"


def test_the_oldest_logs_of_a_deployment_are_deleted(tmp_path: Path) -> None:
    history = History(tmp_path, kept=3)
    for index in range(6):
        one = state(id=f"0000000{index}")
        HistoryWriter(history, "models", "churn").notify(record("Started", BEGUN_S, one), one)
    other = state(id="0000000f")
    HistoryWriter(history, "models", "churn-two").notify(record("Started", BEGUN_S, other), other)
    names = [(past.name, past.id) for past in history.rollouts()]
    assert len([name for name, _ in names if name == "churn"]) == 4  # three, and the one that was written since
    assert ("churn-two", "0000000f") in names
