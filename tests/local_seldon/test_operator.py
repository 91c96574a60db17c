from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from scipy.stats import binomtest

from local_seldon.demo.load import Load
from rollout.analysis.counts import LATENCY_EDGES_MS
from rollout.cli.driving import open_source
from rollout.errors import Rejected, Unavailable
from rollout.evidence.envoy_stats import MeshCounts, envoy_stats
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
    assert len(of_v1) == 2
    assert abs(of_v1[0] - of_v1[1]) <= 1  # within a predictor, by turns
    assert running.weights() == {"v1": 50, "v2": 50}


@pytest.mark.slow
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
    assert binomtest(answers(client, f"{running.url}/predict", 200)["v2"], 200, 0.3).pvalue > 0.001
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
    with pytest.raises(Rejected, match="v9 has weight and no route; predictors with routes: v1, v2"):
        running.target.route({"v9": 100})
    running.turn("unready-v2", on=False)
    eventually(lambda: running.weights() == {"v1": 50, "v2": 50})


def test_a_failing_predictors_answers_reach_the_caller_once_and_unchanged(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    running.turn("failing-v2", on=True)
    found = [client.post(f"{running.url}/predict", content=b"{}") for _ in range(100)]
    by_predictor = Counter((one.headers["X-Seldon-Predictor"], one.status_code) for one in found)
    assert set(by_predictor) == {("v1", 200), ("v2", 503)}
    assert all(one.text.startswith("v2 ") for one in found if one.status_code == 503)


def test_a_predictor_that_died_is_seen_as_failing_and_started_again_with_backoff(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    running.turn("dying-v2", on=True)
    (replica,) = running.replicas("v2")
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{replica['http']}/die")
    eventually(lambda: running.state() == "Creating")
    found = [client.post(f"{running.url}/predict", content=b"{}") for _ in range(40)]
    by_predictor = {(one.headers["X-Seldon-Predictor"], one.status_code) for one in found}
    assert by_predictor == {("v1", 200), ("v2", 503)}  # the gateway answers for a predictor that has nobody
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
    assert "no directory known for image 'churn-serving:99'" in running.store.read()["status"]["description"]
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
    assert len(runtime["processes"]) == 2
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
    mesh = next(one for one in running.store.runtime()["processes"] if _is_envoy(one["pid"]))
    os.kill(mesh["pid"], 9)

    def weights() -> dict[str, int]:
        try:
            return running.weights()
        except Unavailable:
            return {}

    eventually(lambda: mesh["pid"] not in [one["pid"] for one in running.store.runtime()["processes"]] and weights())
    assert weights() == {"v1": 60, "v2": 40}
    assert set(answers(client, f"{running.url}/predict", 50)) == {"v1", "v2"}


def test_a_header_chooses_a_predictor_at_0_percent(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100), predictor("v2", 0))
    for path in (f"{BASE}/predict", "/predict"):
        found = [client.post(running.url + path, headers={"X-Seldon-Predictor": "v2"}) for _ in range(10)]
        assert {one.text.split()[0] for one in found} == {"v2"}
    unknown = client.post(f"{running.url}/predict", headers={"X-Seldon-Predictor": "v3"})
    assert unknown.status_code == 404
    assert unknown.json()["error"] == "X-Seldon-Predictor names no predictor that has a route; known: v1, v2"
    assert answers(client, f"{running.url}/predict", 30) == {"v1": 30}


def test_a_shadow_gets_a_copy_of_every_request_and_answers_nobody(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100), predictor("v2", 100, shadow=True))
    assert running.weights() == {"v1": 100}
    for number in range(50):
        answer = client.post(f"{running.url}{BASE}/record/{number}", content=b"{}")
        assert answer.text.startswith("v1 ")

    def recorded(name: str) -> dict[str, str]:
        file = running.switches / f"requests-{name}"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return {one["path"]: one["x-request-id"] for one in lines}

    eventually(lambda: len(recorded("v2")) == 50)
    assert recorded("v1") == recorded("v2")  # the same requests, by the same id: the two answers can be paired
    running.turn("failing-v2", on=True)
    assert client.post(f"{running.url}/predict", content=b"{}").status_code == 200
    chosen = client.post(f"{running.url}/predict", headers={"X-Seldon-Predictor": "v2"})
    assert chosen.status_code == 503


def test_a_dead_operator_refuses_every_change_and_follows_nothing(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 70), predictor("v2", 30))
    status = running.store.read()["status"]
    running.control(operator_alive=False)
    for dry_run in (False, True):
        with pytest.raises(Unavailable, match="failed calling webhook"):
            running.target.patch([{"op": "remove", "path": "/spec/predictors/1"}], dry_run=dry_run)
    with pytest.raises(Unavailable, match="failed calling webhook"):
        running.set_traffic(v1=100, v2=0)
    running.turn("dying-v2", on=True)
    (replica,) = running.replicas("v2")
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://127.0.0.1:{replica['http']}/die")
    # Pods, readiness and endpoints are the cluster's; only the status is the operator's, and it is stale.
    eventually(lambda: running.target.read().readiness["v2"] == Readiness(1, 0))
    eventually(lambda: running.replicas("v2")[0]["waiting"] == "CrashLoopBackOff")
    assert running.replicas("v2")[0]["last_exit_code"] == 3
    assert running.store.read()["status"] == status
    assert status["state"] == "Available"
    running.target.route({"v1": 100})
    assert running.weights() == {"v1": 100, "v2": 0}
    assert answers(client, f"{running.url}/predict", 50) == {"v1": 50}
    running.turn("dying-v2", on=False)
    eventually(lambda: running.target.read().readiness["v2"] == Readiness(1, 1))
    assert running.weights() == {"v1": 100, "v2": 0}
    running.control(operator_alive=True)
    eventually(lambda: running.weights() == {"v1": 70, "v2": 30})
    running.target.patch(
        [
            {"op": "remove", "path": "/spec/predictors/1"},
            {"op": "add", "path": "/spec/predictors/0/traffic", "value": 100},
        ]
    )
    eventually(lambda: running.weights() == {"v1": 100})


def test_an_autoscaler_sets_the_replicas_within_its_limits(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 100, replicas=7, scale=(2, 3)), wait=False)
    ready = lambda: running.target.read().readiness.get("v1") if running.store.runtime() else None  # noqa: E731
    eventually(lambda: ready() == Readiness(1, 1))  # a Deployment starts with one, until the autoscaler has looked
    eventually(lambda: ready() == Readiness(2, 2))
    running.control(replicas={"v1": 9})
    eventually(lambda: ready() == Readiness(3, 3))
    assert len({client.get(f"{running.url}/any").text for _ in range(30)}) == 3
    running.target.patch([{"op": "add", "path": "/spec/predictors/0/componentSpecs/0/hpaSpec/maxReplicas", "value": 4}])
    eventually(lambda: ready() == Readiness(4, 4))
    running.control(replicas={})
    eventually(lambda: ready() == Readiness(2, 2))
    assert len(running.replicas("v1")) == 2


def test_a_predictor_that_scales_up_freezes_the_weights_until_its_new_pod_is_ready(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 90), predictor("v2", 10, scale=(1, 3)))
    running.control(replicas={"v2": 2}, image_pull_s={"v2": 3.0})
    eventually(lambda: running.target.read().readiness["v2"] == Readiness(2, 1))
    eventually(lambda: running.state() == "Creating")
    assert running.replicas("v2")[1]["waiting"] == "ContainerCreating"
    running.set_traffic(v1=50, v2=50)
    assert answers(client, f"{running.url}/predict", 30).total() == 30
    assert running.weights() == {"v1": 90, "v2": 10}
    eventually(lambda: running.target.read().readiness["v2"] == Readiness(2, 2))
    eventually(lambda: running.weights() == {"v1": 50, "v2": 50})


@pytest.mark.slow
def test_no_request_is_lost_while_predictors_scale(local: Begin) -> None:
    running = local(predictor("v1", 50, scale=(1, 3)), predictor("v2", 50))
    load = Load(f"{running.url}{BASE}/predict", lambda _: b"{}", per_s=400)
    thread = threading.Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        for number in (3, 1, 2):
            running.control(replicas={"v1": number})
            eventually(lambda: running.target.read().readiness["v1"], Readiness(number, number).__eq__)
            until = load.tally.sent + 200
            eventually(lambda: load.tally.sent, until.__lt__)
    finally:
        load.stop()
        thread.join()
    assert load.tally.failed == 0
    assert load.tally.answered == load.tally.sent


def test_the_gateway_counts_what_each_predictor_answered_and_what_it_did_not(
    local: Begin, client: httpx.Client
) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))

    def counts(name: str) -> MeshCounts:
        return envoy_stats(running.target.mesh_statistics())[name]

    def send(name: str, requests: int) -> None:
        for _ in range(requests):
            client.post(f"{running.url}/predict", headers={"X-Seldon-Predictor": name})

    send("v1", 30)
    running.turn("failing-v2", on=True)
    send("v2", 7)
    assert (counts("v1").requests, counts("v1").errors, counts("v1").resets) == (30, 0, 0)
    assert (counts("v2").requests, counts("v2").errors, counts("v2").resets) == (7, 7, 0)
    eventually(lambda: [upto for edge, upto in counts("v1").latency if math.isinf(edge)] == [30])
    edges = [edge for edge, _ in counts("v1").latency]
    assert edges == [*LATENCY_EDGES_MS, math.inf]
    with suppress(httpx.HTTPError):  # the connection breaks before there is an answer
        client.post(f"{running.url}/die", headers={"X-Seldon-Predictor": "v2"})
    assert (counts("v2").requests, counts("v2").errors, counts("v2").resets) == (8, 8, 1)
    running.turn("unready-v1", on=True)
    eventually(lambda: running.target.read().readiness["v1"] == Readiness(1, 0))
    eventually(lambda: client.get(f"{running.url}/any", headers={"X-Seldon-Predictor": "v1"}).status_code == 503)
    after = counts("v1")
    assert after.errors == after.resets > 0


def test_what_never_reached_a_replica_is_evidence_of_a_rollout(local: Begin, client: httpx.Client) -> None:
    running = local(predictor("v1", 50), predictor("v2", 50))
    with closing(open_source("scrape", running.target)) as source:
        before = source.sample(["v1", "v2"])
        for _ in range(5):
            client.post(f"{running.url}/predict", headers={"X-Seldon-Predictor": "v1"})
        with suppress(httpx.HTTPError):  # the process ends, and the connection breaks before there is an answer
            client.post(f"{running.url}/die", headers={"X-Seldon-Predictor": "v2"})
        after = source.sample(["v1", "v2"])
    seen = {name: (after.arms[name] - before.arms[name]).mesh for name in ("v1", "v2")}
    assert {name: (one.requests, one.errors) for name, one in seen.items() if one} == {"v1": (5, 0), "v2": (1, 1)}


def test_a_port_that_is_taken_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = Local(tmp_path, manifest(predictor("v1", 100)), port=port)
        running.start()
        eventually(lambda: running.error)
        running.stop()
    assert str(running.error) == f"port {port} is taken (Address already in use); choose another: --port 0"
    assert not running.store.object_file.exists()


def _is_envoy(pid: int) -> bool:
    return "bootstrap.json" in Path(f"/proc/{pid}/cmdline").read_text()
