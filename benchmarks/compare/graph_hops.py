"""What an inference graph costs: latency of each hop and CPU of each container, beside one pod that does it all.

    python -m benchmarks.compare.graph_hops --seconds 10

Takes the models and features that `make serve` leaves in var/, runs the graph of seldon/overlays/graph with one pod,
and asks for one customer at a time: through the executor, and each node by itself with the message that it gets in the
graph. Prints the table of docs/graphs.md. CPU is the processes' own, from /proc.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from benchmarks.errors import BenchmarkError
from local_seldon.ports import free_ports
from rollout.manifest.rendering import kustomized

ROOT = Path(__file__).resolve().parents[2]
BRANCHES = {"churn-xgboost": "churn-xgboost.ubj", "churn-sklearn": "churn-sklearn.joblib"}
START_LIMIT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main(seconds: Annotated[float, typer.Option(help="How long each row is measured.")] = 10.0) -> None:
    """Measure and print the table."""
    key = {"name": "customer_id", "datatype": "INT64", "shape": [1, 1], "data": [42]}
    request = json.dumps({"inputs": [key]}).encode()
    with tempfile.TemporaryDirectory() as folder, _server() as alone, _graph(Path(folder)) as (url, ports, pids):
        features = _post(f"http://127.0.0.1:{ports['features']}/v2/models/features/infer", request)
        matrix = json.loads(features)
        matrix["inputs"] = matrix.pop("outputs")
        chained = json.dumps(matrix).encode()
        responses = [_post(_node(ports, name, "infer"), chained) for name in BRANCHES]
        calls = {
            "one pod, `/v2/models/churn/infer`": (f"{alone[0]}/v2/models/churn/infer", request, [alone[1]]),
            "graph, through the executor": (f"{url}/v2/models/infer", request, list(pids.values())),
            "features": (_node(ports, "features", "infer"), request, [pids["features"]]),
            **{name: (_node(ports, name, "infer"), chained, [pids[name]]) for name in BRANCHES},
            "join": (_node(ports, "join", "aggregate"), b"[" + b",".join(responses) + b"]", [pids["join"]]),
        }
        print("| call, one row, one caller | P50, ms | P99, ms | CPU, ms per call |\n|---|---|---|---|")
        for title, (target, body, processes) in calls.items():
            p50_ms, p99_ms, cpu_ms = _measure(target, body, processes, seconds)
            print(f"| {title} | {p50_ms:.2f} | {p99_ms:.2f} | {cpu_ms:.2f} |")


def _measure(url: str, body: bytes, pids: list[int], seconds: float) -> tuple[float, float, float]:
    took_ms: list[float] = []
    with httpx.Client(timeout=30) as client:
        for _ in range(20):
            _sent(client, url, body)
        began_cpu_s, end_s = _cpu_s(pids), time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            began_s = time.perf_counter()
            _sent(client, url, body)
            took_ms.append((time.perf_counter() - began_s) * 1000)
    spent_ms = (_cpu_s(pids) - began_cpu_s) * 1000 / len(took_ms)
    return statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98], spent_ms


def _sent(client: httpx.Client, url: str, body: bytes) -> bytes:
    answer = client.post(url, content=body, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        raise BenchmarkError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    return answer.content


def _post(url: str, body: bytes) -> bytes:
    with httpx.Client(timeout=30) as client:
        return _sent(client, url, body)


def _node(ports: dict[str, int], name: str, method: str) -> str:
    return f"http://127.0.0.1:{ports[name]}/v2/models/{name}/{method}"


def _cpu_s(pids: list[int]) -> float:
    spent = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += int(fields[11]) + int(fields[12])
    return spent / _TICKS_PER_S


@contextmanager
def _server() -> Iterator[tuple[str, int]]:
    """Run the service of one pod; yield its URL and pid."""
    rest, grpc, metrics = free_ports(3)
    ports = {"MLSERVER_HTTP_PORT": rest, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
    environment = {**os.environ, "SERVING_DRAIN_DELAY_S": "0"} | {name: str(port) for name, port in ports.items()}
    with _process([sys.executable, "scripts/serve.py"], environment) as process:
        url = f"http://127.0.0.1:{rest}"
        _until(lambda: httpx.get(f"{url}/v2/models/churn/ready").status_code == 200)
        yield url, process.pid


@contextmanager
def _graph(folder: Path) -> Iterator[tuple[str, dict[str, int], dict[str, int]]]:
    """Run the graph; yield its URL, and the port and pid of each node (and of the executor)."""
    (document,) = (one for one in kustomized(ROOT / "seldon/overlays/graph") if one["kind"] == "SeldonDeployment")
    document["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"]["minReplicas"] = 1
    file = folder / "graph.yaml"
    file.write_text(yaml.safe_dump(document))
    (port,) = free_ports(1)
    stock = {f"s3://models/{name}/1": f"var/stock/{model}" for name, model in BRANCHES.items()}
    models = {image: str(ROOT / path) for image, path in {**stock, "churn-serving:1": "var/bundle"}.items()}
    artifacts = [word for image, path in models.items() for word in ("--artifact", f"{image}={path}")]
    command = [sys.executable, "-m", "commands.main", "local", "up", str(file), "--port", str(port)]
    more = ["--state", str(folder / "state"), "--env", f"SERVING_FEATURE_STORE=sqlite:///{ROOT}/var/features.db"]
    with _process([*command, *artifacts, *more], dict(os.environ)) as process:
        url = f"http://127.0.0.1:{port}/seldon/churn/churn"
        _until(lambda: httpx.get(f"{url}/v2/models/features/ready").status_code == 200)
        ports, pids = _nodes(process.pid)
        yield url, ports, pids


def _nodes(controller: int) -> tuple[dict[str, int], dict[str, int]]:
    """Find the processes of the nodes below the controller, by the variables that the operator gives them."""
    ports: dict[str, int] = {}
    pids: dict[str, int] = {}
    for pid in _below(controller):
        entries = (Path(f"/proc/{pid}/environ").read_bytes()).decode(errors="replace").split("\0")
        environment: dict[str, Any] = dict(entry.partition("=")[::2] for entry in entries)
        if unit := environment.get("PREDICTIVE_UNIT_ID"):
            ports[unit], pids[unit] = int(environment["MLSERVER_HTTP_PORT"]), pid
        elif "LOCAL_SELDON_POD" in environment:
            pids["executor"] = pid
    return ports, pids


def _below(pid: int) -> Iterator[int]:
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        yield child
        yield from _below(child)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _until(passes: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        try:
            if passes():
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"not ready within {START_LIMIT_S:.0f} s; run `make serve` once before")
        time.sleep(0.2)


if __name__ == "__main__":
    typer.run(main)
