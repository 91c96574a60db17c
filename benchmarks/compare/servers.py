"""Every server of the comparison: this project in three forms, MLServer's stock runtime, peers, and a bare ASGI app.

The peers have virtual environments of their own, made from their locks, and made again when a lock changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.compare import queries as query
from benchmarks.compare.inputs import Inputs
from benchmarks.compare.server import Server
from benchmarks.errors import MeasurementError
from custom_runtime.active import CONTRACT

PORTS = {"MLSERVER_HTTP_PORT": "{rest}", "MLSERVER_GRPC_PORT": "{grpc}", "MLSERVER_METRICS_PORT": "{metrics}"}
# Between two servers there are no clients to drain.
NO_DRAIN = {"SERVING_DRAIN_DELAY_S": "0"}
PROJECT, PLAIN, STOCK, REDIS = "project", "plain", "stock", "redis"
FASTAPI, BENTOML, KSERVE, BARE = "fastapi", "bentoml", "kserve", "bare"
FASTAPI_ONNX, LITSERVE = "fastapi-onnx", "litserve"
PEERS = Path(__file__).resolve().parents[1] / "peers"
STAMP = ".lock-sha256"


def all_servers(root: Path, inputs: Inputs, *, redis_url: str | None) -> list[Server]:
    """Return the servers in the order of the report; without a Redis its row is left out."""
    servers = [bare(root, inputs), project(root, inputs)]
    if redis_url is not None:
        servers.append(project_on_redis(root, inputs, redis_url))
    return [*servers, plain(root, inputs), stock(root, inputs), *peers(root, inputs)]


def project(root: Path, inputs: Inputs) -> Server:
    """Return this project as it is deployed: scripts/serve.py, features in SQLite."""
    return Server(
        key=PROJECT,
        title="this project, SQLite features",
        command=(sys.executable, "scripts/serve.py"),
        directory=root,
        ready_path=f"/v2/models/{CONTRACT.name}/ready",
        queries={
            "predict": query.predict(inputs),
            "v2-rest": query.v2_rest(inputs),
            "v2-rest-outputs": query.v2_rest_outputs(inputs),
            "v2-rest-binary": query.v2_rest_binary(inputs),
            "v2-grpc": query.v2_grpc(inputs),
        },
        environment=PORTS | {"SERVING_FEATURE_STORE": f"sqlite:///{root / 'var' / 'features.db'}"} | NO_DRAIN,
    )


def project_on_redis(root: Path, inputs: Inputs, url: str) -> Server:
    """Return the same with features in a Redis on the client's core."""
    return Server(
        key=REDIS,
        title="this project, Redis features",
        command=(sys.executable, "scripts/serve.py"),
        directory=root,
        ready_path=f"/v2/models/{CONTRACT.name}/ready",
        queries={"predict": query.predict(inputs)},
        environment=PORTS | {"SERVING_FEATURE_STORE": url} | NO_DRAIN,
    )


def plain(root: Path, inputs: Inputs) -> Server:
    """Return the same runtime under plain `mlserver start`: MLServer's own routes."""
    return Server(
        key=PLAIN,
        title="this project's runtime under `mlserver start`",
        command=(_tool("mlserver"), "start", f"model-settings/{CONTRACT.name}"),
        directory=root,
        ready_path=f"/v2/models/{CONTRACT.name}/ready",
        queries={"predict": query.predict(inputs), "v2-rest": query.v2_rest(inputs)},
        environment=PORTS | _mlserver_settings(root),
    )


def stock(root: Path, inputs: Inputs) -> Server:
    """Return MLServer's own XGBoost runtime, with the settings that this project gives MLServer."""
    return Server(
        key=STOCK,
        title="MLServer's xgboost runtime",
        command=(_tool("mlserver"), "start", f"model-settings/{CONTRACT.name}-xgboost"),
        directory=root,
        ready_path=f"/v2/models/{CONTRACT.name}-xgboost/ready",
        queries={"v2-rest": query.stock_rest(inputs), "v2-grpc": query.stock_grpc(inputs)},
        environment=PORTS | _mlserver_settings(root),
    )


def bare(root: Path, inputs: Inputs) -> Server:
    """Return what an ASGI server can reach: uvicorn, uvloop and httptools answering with a constant."""
    return Server(
        key=BARE,
        title="bare ASGI app (no work)",
        command=(_peer_tool(root, "fastapi", "uvicorn"), "service:app", "--port", "{rest}", "--no-access-log"),
        directory=PEERS / "bare_asgi",
        ready_path="/",
        queries={"predict": query.constant(inputs)},
    )


def fastapi(root: Path, inputs: Inputs) -> Server:
    """Return the FastAPI service that the decision record names as its way back."""
    return Server(
        key=FASTAPI,
        title="FastAPI by hand",
        command=(_peer_tool(root, "fastapi", "uvicorn"), "service:app", "--port", "{rest}", "--no-access-log"),
        directory=PEERS / "fastapi_by_hand",
        ready_path="/ready",
        queries={"predict": query.predict(inputs)},
        environment=_peer_environment(inputs),
    )


def peers(root: Path, inputs: Inputs) -> list[Server]:
    """Return FastAPI by hand with both engines, BentoML, LitServe and KServe."""
    return [
        fastapi(root, inputs),
        Server(
            key=BENTOML,
            title="BentoML, default settings",
            command=(_peer_tool(root, "bentoml", "bentoml"), "serve", "service:ChurnPredictor", "--port", "{rest}"),
            directory=PEERS / "bentoml_service",
            ready_path="/readyz",
            queries={"predict": query.bento_predict(inputs)},
            environment=_peer_environment(inputs)
            | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(root / "var" / "peers" / "bentoml" / "home")},
        ),
        Server(
            key=FASTAPI_ONNX,
            title="FastAPI with ONNX Runtime",
            command=(_peer_tool(root, "fastapi", "uvicorn"), "service:app", "--port", "{rest}", "--no-access-log"),
            directory=PEERS / "fastapi_onnx",
            ready_path="/ready",
            queries={"predict": query.predict(inputs)},
            environment=_peer_environment(inputs),
        ),
        Server(
            key=LITSERVE,
            title="LitServe with ONNX Runtime",
            command=(_peer_tool(root, "litserve", "python"), "service.py", "{rest}"),
            directory=PEERS / "litserve_service",
            ready_path="/health",
            queries={"predict": query.predict(inputs)},
            environment=_peer_environment(inputs),
        ),
        Server(
            key=KSERVE,
            title="KServe's Python server",
            command=(
                _peer_tool(root, "kserve", "python"),
                *("service.py", "--http_port", "{rest}", "--grpc_port", "{grpc}", "--enable_grpc", "false"),
            ),
            directory=PEERS / "kserve_model",
            ready_path=f"/v2/models/{CONTRACT.name}/ready",
            queries={"v2-rest": query.v2_rest(inputs)},
            environment=_peer_environment(inputs),
        ),
    ]


def _mlserver_settings(root: Path) -> dict[str, str]:
    settings = json.loads((root / "model-settings" / "settings.json").read_text())
    return {f"MLSERVER_{name.upper()}": json.dumps(value) for name, value in settings.items()}


def _peer_environment(inputs: Inputs) -> dict[str, str]:
    return {
        "PEER_MODEL": str(inputs.model.resolve()),
        "PEER_ONNX": str(inputs.onnx.resolve()),
        "PEER_FEATURES": str(inputs.table.resolve()),
    }


def _peer_tool(root: Path, peer: str, tool: str) -> str:
    return str(root / "var" / "peers" / peer / "venv" / "bin" / tool)


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def make_environments(root: Path, peers: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Install requirements/peers/<peer>.txt into var/peers/<peer>/venv. Raises MeasurementError."""
    for peer in peers:
        lock = root / "requirements" / "peers" / f"{peer}.txt"
        environment = root / "var" / "peers" / peer / "venv"
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        stamp = environment / STAMP
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        say(f"installing {peer} into {environment.relative_to(root)}")
        uv = str(Path(sys.executable).parent / "uv")
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)])
        _run([uv, "pip", "sync", "--quiet", "--require-hashes", str(lock)], VIRTUAL_ENV=str(environment))
        stamp.write_text(wanted)


def _run(command: Sequence[str], **environment: str) -> None:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"{' '.join(command)} failed: {done.stderr.strip()}")
