from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from scipy.stats import binomtest

from local_seldon.demo.load import Load
from rollout.errors import Rejected, Unavailable
from rollout.targets.target import Readiness
from tests.support.local_seldon_world import BASE, Local, is_alive, manifest, predictor
from tests.support.programs import eventually

Begin = Callable[..., Local]
pytestmark = pytest.mark.integration


def answers(client: httpx.Client, url: str, count: int = 1) -> Counter[str]:
    return Counter(client.post(url, content=b"{}").headers.get("X-Seldon-Predictor", "-") for _ in range(count))


def test_callers_reach_the_service_by_the_operators_path_and_by_the_plain_one(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 100))
    for path in (f"{BASE}/predict", "/predict"):
        answer = client.post(running.url + path, content=b"{}")
        assert answer.status_code == 200
        assert answer.text.startswith("v1 ")
    assert client.get(f"{running.url}/predictors/v1/0/metrics").text == 'stub_up{predictor="v1"} 1\n'
    assert client.get(f"{running.url}/predictors/v1/anything").text.startswith("v1 ")
    for url in running.target.metrics_urls()["v1"]:
        assert client.get(url).text == 'stub_up{predictor="v1"} 1\n'


def test_a_predictor_sees_what_the_operator_injects_and_nothing_of_the_shell(
    local: Begin, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVING_FEATURE_STORE", "of the shell")
    running = local(predictor("v1", 100, env={"SERVING_DEADLINE_MS": "400"}))
    seen = client.get(f"{running.url}/environment").json()
    (replica,) = running.replicas("v1")
    assert seen["MLSERVER_HTTP_PORT"] == str(replica["http"])
    assert seen["MLSERVER_METRICS_ENDPOINT"] == "/prometheus"
    assert seen["MLSERVER_MODEL_NAME"] == "churn"
    assert seen["MLSERVER_MODEL_URI"] == "/bundles/1"
    assert seen["PREDICTOR_ID"] == "v1"
    assert seen["SELDON_DEPLOYMENT_ID"] == "churn"
    assert seen["SERVING_DEADLINE_MS"] == "400"
    assert "SERVING_FEATURE_STORE" not in seen


def test_requests_are_split_by_the_weights(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 70), predictor("v2", 30))
    seen = answers(client, f"{running.url}/predict", 600)
    assert seen.total() == seen["v1"] + seen["v2"]
    assert binomtest(seen["v2"], 600, 0.3).pvalue > 0.001
    running.set_traffic(v1=95, v2=5)
    eventually(lambda: running.weights() == {"v1": 95, "v2": 5})
    assert binomtest(answers(client, f"{running.url}/predict", 600)["v2"], 600, 0.05).pvalue > 0.001


def test_replicas_of_a_predictor_share_its_part(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 50, replicas=2), predictor("v2", 50))
    assert running.target.read().readiness["v1"] == Readiness(2, 2)
    pids = Counter(client.get(f"{running.url}/any").text for _ in range(200))
    of_v1 = [count for answer, count in pids.items() if answer.startswith("v1")]
    assert sorted(of_v1) == [50, 50]
    assert running.weights() == {"v1": 50, "v2": 50}


def test_no_request_is_lost_while_weights_change_and_predictors_come_and_go(local: Begin) -> None:
    running = local(predictor("v1", 100))
    load = Load(f"{running.url}{BASE}/predict", lambda _: b"{}", per_s=500)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        running.target.patch([{"op": "add", "path": "/spec/predictors/-", "value": predictor("v2", 0)}])
        eventually(lambda: running.weights() == {"v1": 100, "v2": 0})
        for percent in (*range(5, 95, 5), 100):  # many changes: each one is a chance to lose a request
            running.set_traffic(v1=100 - percent, v2=percent)
            eventually(running.weights, {"v1": 100 - percent, "v2": percent}.__eq__)
            sent = load.tally.sent
            eventually(partial(getattr, load.tally, "sent"), (sent + 40).__lt__)
        running.target.patch([{"op": "remove", "path": "/spec/predictors/0"}])
        eventually(lambda: not running.replicas("v1"))
    finally:
        load.stop()
        thread.join()
    assert load.tally.sent > 400
    assert load.tally.answered == load.tally.sent
    assert load.tally.failed == 0
    assert load.tally.share("v1") > 0.1 < load.tally.share("v2")


def test_weights_are_frozen_while_a_predictor_is_unready_and_its_removal_frees_them(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 70), predictor("v2", 30))
    running.turn("unready-v2", on=True)
    eventually(lambda: running.state() == "Creating")
    running.set_traffic(v1=100, v2=0)
    assert running.target.read().deployment.traffic() == {"v1": 100, "v2": 0}
    frozen_until_s = time.monotonic() + 1.5  # longer than a resync
    eventually(lambda: running.weights() != {"v1": 70, "v2": 30} or time.monotonic() > frozen_until_s)
    assert running.weights() == {"v1": 70, "v2": 30}
    assert answers(client, f"{running.url}/predict", 100)["v2"] == 30
    running.target.patch([{"op": "remove", "path": "/spec/predictors/1"}])
    eventually(lambda: running.weights() == {"v1": 100})
    eventually(lambda: running.state() == "Available")  # the status is written after the weights
    assert answers(client, f"{running.url}/predict", 50) == {"v1": 50}
    eventually(lambda: not running.replicas("v2"))


def test_a_predictor_that_was_never_ready_has_no_route(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100))
    running.turn("unready-v2", on=True)
    running.target.patch([{"op": "add", "path": "/spec/predictors/-", "value": predictor("v2", 0)}])
    eventually(lambda: running.target.read().readiness.get("v2") == Readiness(1, 0))
    assert running.weights() == {"v1": 100}
    running.turn("unready-v2", on=False)
    eventually(lambda: running.weights() == {"v1": 100, "v2": 0})
    assert answers(client, f"{running.url}/predict", 50) == {"v1": 50}


def test_the_mesh_can_be_written_directly_while_weights_are_frozen(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    running.turn("unready-v2", on=True)
    eventually(lambda: running.state() == "Creating")
    running.target.route({"v1": 100})
    still_s = time.monotonic() + 1.5
    eventually(lambda: running.weights() != {"v1": 100, "v2": 0} or time.monotonic() > still_s)
    assert running.weights() == {"v1": 100, "v2": 0}
    assert answers(client, f"{running.url}/predict", 50) == {"v1": 50}
    with pytest.raises(Rejected, match="v9 has weight and no upstream; predictors with upstreams: v1, v2"):
        running.target.route({"v9": 100})
    running.turn("unready-v2", on=False)
    eventually(lambda: running.weights() == {"v1": 50, "v2": 50})


def test_a_failing_predictors_answers_reach_the_caller_once_and_unchanged(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    running.turn("failing-v2", on=True)
    seen = Counter(client.post(f"{running.url}/predict", content=b"{}").status_code for _ in range(100))
    assert seen == {200: 50, 503: 50}


def test_a_predictor_that_died_is_seen_as_failing_and_started_again_with_backoff(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    running.turn("dying-v2", on=True)
    (replica,) = running.replicas("v2")
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{replica['http']}/die")
    eventually(lambda: running.state() == "Creating")
    seen = Counter(client.post(f"{running.url}/predict", content=b"{}").status_code for _ in range(20))
    assert set(seen) == {200, 502}
    assert abs(seen[502] - 10) <= 3  # each start is on other ports, and begins the mesh's turns anew
    eventually(lambda: running.replicas("v2")[0]["restarts"] >= 2)
    running.turn("dying-v2", on=False)
    running.available()
    seen = Counter(client.post(f"{running.url}/predict", content=b"{}").status_code for _ in range(20))
    assert seen == {200: 20}
    deaths = [line for line in Path(running.replicas("v2")[0]["log"]).read_text().splitlines() if "Traceback" in line]
    assert not deaths


def test_an_edited_predictor_is_replaced_without_a_lost_request(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100))
    (before,) = running.replicas("v1")
    running.set_traffic(v1=100)
    edit = {
        "op": "add",
        "path": "/spec/predictors/0/componentSpecs/0/spec/containers/0/image",
        "value": "churn-serving:2",
    }
    running.target.patch([edit])
    seen: Counter[int] = Counter()

    def replaced() -> bool:
        seen[client.post(f"{running.url}/predict", content=b"{}").status_code] += 1
        return [one["pid"] for one in running.replicas("v1") if one["ready"]] not in ([before["pid"]], []) and len(
            running.replicas("v1")
        ) == 1

    eventually(replaced)
    assert client.get(f"{running.url}/environment").json()["MLSERVER_MODEL_URI"] == "/bundles/2"
    assert set(seen) == {200}


def test_traffic_edits_restart_nothing(local: Begin) -> None:
    running = local(predictor("v1", 90), predictor("v2", 10))
    pids = [running.replicas(name)[0]["pid"] for name in ("v1", "v2")]
    running.set_traffic(v1=10, v2=90)
    eventually(lambda: running.weights() == {"v1": 10, "v2": 90})
    assert [running.replicas(name)[0]["pid"] for name in ("v1", "v2")] == pids


def test_a_change_of_the_file_is_applied_and_a_broken_one_is_refused(local: Begin) -> None:
    running = local(predictor("v1", 100))
    running.write(manifest(predictor("v1", 80), predictor("v2", 20)))
    eventually(lambda: running.weights() == {"v1": 80, "v2": 20})
    running.write(manifest(predictor("v1", 80), predictor("v2", 30)))
    eventually(lambda: running.state() == "Failed")
    description = running.store.read()["status"]["description"]
    assert "Traffic must sum to 100 for multiple predictors: it sums to 110" in description
    assert running.weights() == {"v1": 80, "v2": 20}


def test_a_version_without_a_directory_is_refused_and_the_rest_serves_on(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100))
    running.target.patch([{"op": "add", "path": "/spec/predictors/-", "value": predictor("v99", 0)}])
    eventually(lambda: running.state() == "Failed")
    assert "no directory here for image 'churn-serving:99'" in running.store.read()["status"]["description"]
    assert answers(client, f"{running.url}/predict", 10) == {"v1": 10}


def test_status_is_the_operators(local: Begin) -> None:
    running = local(predictor("v1", 100, replicas=2))
    status = running.store.read()["status"]
    assert status["state"] == "Available"
    assert status["deploymentStatus"] == {"churn-v1-0-churn": {"replicas": 2, "availableReplicas": 2}}
    assert status["address"] == {"url": f"{running.url}{BASE}"}


def test_the_end_leaves_no_process_no_socket_and_no_object(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100))
    runtime = running.store.runtime()
    url = running.url
    running.stop()
    assert running.error is None
    assert len(runtime["processes"]) == 3
    assert not [process["pid"] for process in runtime["processes"] if is_alive(process["pid"])]
    assert not Path(runtime["admin_socket"]).parent.exists()
    left = {path.name for path in running.store.directory.iterdir()}
    assert left == {"deployment.lock", "logs"}
    with pytest.raises(httpx.ConnectError):
        client.get(url)


def test_a_request_in_flight_is_answered_before_the_end(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100))
    found: list[int] = []
    url = f"{running.url}/slow"
    thread = threading.Thread(target=lambda: found.append(client.post(url, content=b"{}").status_code))
    thread.start()
    eventually((running.switches / "slow-has-begun").exists)
    running.stop()
    thread.join()
    assert found == [200]


def test_a_killed_mesh_comes_back_with_its_weights(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 60), predictor("v2", 40))
    mesh = next(one for one in running.store.runtime()["processes"] if _is_mesh(one["pid"]))
    os.kill(mesh["pid"], 9)

    def weights() -> dict[str, int]:
        try:
            return running.weights()
        except Unavailable:
            return {}

    eventually(lambda: mesh["pid"] not in [one["pid"] for one in running.store.runtime()["processes"]] and weights())
    assert weights() == {"v1": 60, "v2": 40}
    assert answers(client, f"{running.url}/predict", 50) == {"v1": 30, "v2": 20}


def _is_mesh(pid: int) -> bool:
    return "mesh.json" in Path(f"/proc/{pid}/cmdline").read_text()
