"""How a serving process starts, drains and ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT, eventually
from tests.support.serving import Server, World, assert_refuses_to_start, children, serving

pytestmark = pytest.mark.integration
BODY = b'{"customer_id": 42}'


def copy_bundle(world: World, to: Path) -> Path:
    shutil.copytree(world.bundle, to)
    return to


def alter(bundle: Path) -> None:
    model = next(bundle.glob("*.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"?")


def remove(bundle: Path) -> None:
    next(bundle.glob("*.onnx")).unlink()


def other_contract(bundle: Path) -> None:
    manifest = bundle / "bundle.json"
    manifest.write_text(
        re.sub(r'"contract_fingerprint": "\w+"', f'"contract_fingerprint": "{"0" * 64}"', manifest.read_text())
    )


def empty(bundle: Path) -> None:
    shutil.rmtree(bundle)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (alter, r"was altered: sha256 is \w+"),
        (remove, r"cannot be read: No such file"),
        (other_contract, r"was made for contract 0{64}, this server has \w{64}"),
        (empty, r"no bundle at .*make one: churn-serving import"),
    ],
)
def test_a_broken_bundle_ends_the_start_with_one_line_and_exit_code_1(
    world: World, tmp_path: Path, break_it: object, message: str
) -> None:
    bundle = copy_bundle(world, tmp_path / "bundle")
    break_it(bundle)  # type: ignore[operator]
    assert_refuses_to_start(world.environment | {"SERVING_BUNDLE": str(bundle)}, message)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("SERVING_FEATURE_STORE", "sqlite:////nowhere/features.db", r"/nowhere/features.db"),
        ("SERVING_FEATURE_STORE", "mysql://db/features", r"mysql"),
        ("SERVING_FEATURE_STORE", "redis://127.0.0.1:1/0", r"127\.0\.0\.1:1"),
        ("SERVING_MAX_INFLIGHT", "none", r"SERVING_MAX_INFLIGHT is 'none'; input should be"),
        ("MLSERVER_MODEL_URI", "/nowhere/bundle", r"no bundle at /nowhere/bundle"),
    ],
)
def test_a_setting_that_cannot_work_ends_the_start_with_one_line(
    world: World, setting: str, value: str, message: str
) -> None:
    assert_refuses_to_start(world.environment | {setting: value}, message)


def test_variables_of_an_earlier_version_end_the_start_with_their_new_names(world: World) -> None:
    old = {"CHURN_TOKEN": "a" * 40, "CHURN_MAX_INFLIGHT": "3"}
    assert_refuses_to_start(
        world.environment | old,
        "CHURN_MAX_INFLIGHT is now SERVING_MAX_INFLIGHT, CHURN_TOKEN is now SERVING_TOKEN; rename or unset them",
    )


@pytest.mark.parametrize("which", ["HTTP", "GRPC", "METRICS"])
def test_a_port_that_is_taken_ends_the_start_with_one_line(world: World, server: Server, which: str) -> None:
    names = [f"MLSERVER_{name}_PORT" for name in ("HTTP", "GRPC", "METRICS")]
    ports = dict(zip(names, map(str, free_ports(3)), strict=True)) | {f"MLSERVER_{which}_PORT": str(server.http_port)}
    done = refused_start(world.environment | ports | {"MLSERVER_HOST": "127.0.0.1"})
    *logged, said = done.stderr.splitlines()
    assert f"port {server.http_port} is not free" in said
    assert {json.loads(line)["level"] for line in logged} == {"info"}  # of the model, which loads first
    assert done.stdout == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_contract_that_is_not_there_ends_the_start_with_one_line(world: World, workers: str) -> None:
    done = refused_start(world.environment | {"SERVING_CONTRACT": "nowhere/contract.py"}, "--workers", workers)
    assert "SERVING_CONTRACT is 'nowhere/contract.py', which is no file" in done.stderr


def refused_start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a server that must end by itself with code 1 and no traceback."""
    done = subprocess.run(
        [sys.executable, "scripts/serve.py", *arguments],
        cwd=ROOT, env=os.environ | environment, timeout=GUARD_S, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_every_line_of_the_log_is_json_and_settings_without_effect_are_named(world: World, tmp_path: Path) -> None:
    set_in_vain = {"MLSERVER_KAFKA_ENABLED": "true", "MLSERVER_CACHE_ENABLED": "true"}
    with serving(world.environment | set_in_vain | {"SERVING_DRAIN_DELAY_S": "0"}, tmp_path / "log") as server:
        httpx.post(f"{server.rest}/v2/models/nope/infer", json={"inputs": []})
        server.process.terminate()
        server.process.wait(GUARD_S)
        lines = server.log.read_text().splitlines()
    banner = ("REST ", "gRPC ", "metrics ", "try:")
    events = [json.loads(line) for line in lines if not line.startswith(banner)]
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events), events
    ignored = {event["setting"] for event in events if event["event"] == "setting_ignored"}
    assert ignored == set(set_in_vain)


def test_the_metadata_names_what_scores(world: World, server: Server, tmp_path: Path) -> None:
    answer = httpx.post(f"{server.rest}/predict", content=b'{"customer_id": 42}').json()
    assert httpx.get(f"{server.rest}/v2/models/churn").json()["platform"] == "forest"
    for kind in ("onnx", "xgboost"):
        with serving(world.environment | {"SERVING_SCORER": kind}, tmp_path / kind) as other:
            assert httpx.get(f"{other.rest}/v2/models/churn").json()["platform"] == kind
            same = httpx.post(f"{other.rest}/predict", content=b'{"customer_id": 42}').json()
        assert same["churn_probability"] == pytest.approx(answer["churn_probability"], abs=1e-6)


def test_sighup_of_a_single_process_loads_the_bundle_again_and_keeps_the_old_one_where_that_fails(
    world: World, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(world.bundle, bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    with serving(world.environment | {"SERVING_BUNDLE": str(bundle)}, tmp_path / "log") as server:

        def version() -> str:
            return str(httpx.post(f"{server.rest}/predict", content=b'{"customer_id": 42}').json()["model_version"])

        assert version() == manifest["version"]
        (bundle / "bundle.json").write_text(json.dumps(manifest | {"version": "next"}))
        server.process.send_signal(signal.SIGHUP)
        eventually(version, "next".__eq__, what="the new version")
        (bundle / "bundle.json").write_text("{")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload_failed" in server.log.read_text(), what="the failure in the log")
        assert version() == "next"


def test_the_ports_the_name_and_the_metrics_path_are_those_that_the_operator_injects(
    world: World, tmp_path: Path
) -> None:
    injected = {
        "MLSERVER_MODEL_NAME": "classifier",
        "MLSERVER_MODEL_URI": str(world.bundle),
        "MLSERVER_METRICS_ENDPOINT": "/prometheus",
        "PREDICTOR_ID": "v7",
        "SERVING_BUNDLE": "/nowhere",
    }
    with serving(
        world.environment | injected, tmp_path / "log", model="classifier", metrics_path="/prometheus"
    ) as server:
        assert httpx.post(f"{server.rest}/predict", content=BODY).status_code == 200
        answer = httpx.post(
            f"{server.rest}/v2/models/classifier/infer",
            json={"inputs": [{"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}]},
        )
        assert answer.json()["model_name"] == "classifier"
        assert server.samples("serving_request_seconds_count", predictor="v7", model="classifier", code="200") == 2
        assert httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").status_code == 404


def test_a_person_reads_where_the_service_is(world: World, tmp_path: Path) -> None:
    with serving(world.environment, tmp_path / "log") as server:
        # The model is ready a moment before the lines are written.
        text = eventually(server.log.read_text, lambda text: re.search("try:.*\n", text), what="the lines for a person")
    assert f"REST     http://127.0.0.1:{server.http_port}" in text
    assert f"gRPC     127.0.0.1:{server.grpc_port}" in text
    assert f"metrics  http://127.0.0.1:{server.metrics_port}/metrics" in text
    command = next(line.removeprefix("try:").strip() for line in text.splitlines() if line.startswith("try:"))
    assert command == f"""curl -s http://127.0.0.1:{server.http_port}/predict -d '{{"customer_id": 42}}'"""


@contextmanager
def load(server: Server, *, per_second: int, seen: Counter[str], stop: threading.Event) -> Iterator[None]:
    """Send one customer after the other on two connections over REST and one over gRPC until `stop`."""

    def rest() -> None:
        with httpx.Client(base_url=server.rest, timeout=GUARD_S) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/predict", content=BODY)
                except httpx.TransportError as error:
                    seen[f"rest {type(error).__name__}"] += 1
                    return  # nobody listens any more
                seen[f"rest {answer.status_code}"] += 1
                if answer.headers.get("connection") == "close":
                    seen["rest asked to leave"] += 1
                time.sleep(1 / per_second)

    def over_grpc() -> None:
        request = pb.ModelInferRequest(model_name="churn")
        request.inputs.add(name="customer_id", datatype="INT64", shape=[1]).contents.int64_contents.append(42)
        with grpc.insecure_channel(server.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.ModelInfer(request, timeout=GUARD_S)
                    seen["grpc OK"] += 1
                except grpc.RpcError as error:
                    seen[f"grpc {error.code().name}"] += 1
                    return
                time.sleep(1 / per_second)

    threads = [threading.Thread(target=each) for each in (rest, rest, over_grpc)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_sigterm_turns_unready_first_then_serves_on_then_ends_with_0(world: World, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    stop = threading.Event()
    # Long enough for all that is asked meanwhile, on a busy machine too.
    with serving(world.environment | {"SERVING_DRAIN_DELAY_S": "4"}, tmp_path / "log") as server:
        with load(server, per_second=150, seen=seen, stop=stop):
            eventually(lambda: seen["rest 200"] > 50 and seen["grpc OK"] > 20)
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: httpx.get(f"{server.rest}/v2/models/churn/ready").status_code == 503)
            with grpc.insecure_channel(server.grpc) as channel:
                assert not GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=GUARD_S).ready
            assert httpx.get(f"{server.rest}/v2/health/live").status_code == 200
            before = seen.copy()
            eventually(lambda: seen["rest 200"] > before["rest 200"] + 20 and seen["grpc OK"] > before["grpc OK"] + 10)
            stop.set()
        assert server.process.wait(GUARD_S) == 0
    assert seen.pop("rest asked to leave") > 20
    assert set(seen) == {"rest 200", "grpc OK"}, seen


@pytest.mark.slow
def test_workers_share_the_port_add_up_their_metrics_and_one_that_dies_is_replaced(
    world: World, tmp_path: Path
) -> None:
    with serving(world.environment, tmp_path / "log", command=("scripts/serve.py", "--workers", "2")) as server:
        for _ in range(40):
            assert httpx.post(f"{server.rest}/predict", content=BODY, timeout=GUARD_S).status_code == 200
        # A worker counts an answer just after it was sent, and another process reads its counts.
        eventually(lambda: counted(server), lambda count: count >= 40)
        assert counted(server) == 40
        workers = children(server.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: len(set(children(server.process.pid)) - {workers[0]}) == 2)
        # The socket of the dead worker lives on: its connections wait for the replacement.
        for _ in range(40):
            assert httpx.post(f"{server.rest}/predict", content=BODY, timeout=GUARD_S).status_code == 200
        eventually(lambda: counted(server), lambda count: count >= 80)
        assert counted(server) == 80
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(GUARD_S) == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_without_grpc_clients_the_end_does_not_wait_for_them(world: World, tmp_path: Path) -> None:
    environment = world.environment | {"SERVING_DRAIN_DELAY_S": "0.2", "SERVING_GRPC_CONNECTION_AGE_S": "60"}
    with serving(environment, tmp_path / "log") as server:
        with grpc.insecure_channel(server.grpc) as channel:
            grpc.channel_ready_future(channel).result(timeout=GUARD_S)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(GUARD_S) == 0


def counted(server: Server) -> float:
    return server.samples("serving_request_seconds_count", route="predict", code="200")
