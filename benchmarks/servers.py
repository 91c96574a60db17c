"""Every server of the comparison: this project in its three forms, its foundation, its peers, and the ceiling."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import question
from benchmarks.corpus import Corpus
from benchmarks.server import Server

PORTS = {"MLSERVER_HTTP_PORT": "{rest}", "MLSERVER_GRPC_PORT": "{grpc}", "MLSERVER_METRICS_PORT": "{metrics}"}
# Between two servers nobody is left to be drained.
NO_DRAIN = {"CHURN_DRAIN_DELAY_S": "0"}
PROJECT, PLAIN, STOCK, REDIS = "project", "plain", "stock", "redis"
FASTAPI, BENTOML, KSERVE, BARE = "fastapi", "bentoml", "kserve", "bare"
PEERS = Path(__file__).resolve().parent / "peers"


def all_servers(root: Path, corpus: Corpus, *, redis_url: str | None) -> list[Server]:
    """Return the servers in the order of the report; without a Redis its row is left out."""
    servers = [bare(root, corpus), project(root, corpus)]
    if redis_url is not None:
        servers.append(project_on_redis(root, corpus, redis_url))
    return [*servers, plain(root, corpus), stock(root, corpus), *peers(root, corpus)]


def project(root: Path, corpus: Corpus) -> Server:
    """Return this project as it is deployed: scripts/serve.py, features in SQLite."""
    return Server(
        key=PROJECT,
        title="this project, SQLite features",
        command=(sys.executable, "scripts/serve.py"),
        directory=root,
        ready_path="/v2/models/churn/ready",
        questions={
            "predict": question.predict(corpus),
            "v2-rest": question.v2_rest(corpus),
            "v2-grpc": question.v2_grpc(corpus),
        },
        environment=PORTS | {"CHURN_FEATURE_STORE": f"sqlite:///{root / 'var' / 'features.db'}"} | NO_DRAIN,
    )


def project_on_redis(root: Path, corpus: Corpus, url: str) -> Server:
    """Return the same with features in a Redis on the client's core."""
    return Server(
        key=REDIS,
        title="this project, Redis features",
        command=(sys.executable, "scripts/serve.py"),
        directory=root,
        ready_path="/v2/models/churn/ready",
        questions={"predict": question.predict(corpus)},
        environment=PORTS | {"CHURN_FEATURE_STORE": url} | NO_DRAIN,
    )


def plain(root: Path, corpus: Corpus) -> Server:
    """Return the same runtime under plain `mlserver start`: MLServer's own routes."""
    return Server(
        key=PLAIN,
        title="this project's runtime under `mlserver start`",
        command=(_tool("mlserver"), "start", "model-settings/churn"),
        directory=root,
        ready_path="/v2/models/churn/ready",
        questions={"predict": question.predict(corpus), "v2-rest": question.v2_rest(corpus)},
        environment=PORTS | _mlserver_settings(root),
    )


def stock(root: Path, corpus: Corpus) -> Server:
    """Return MLServer's own XGBoost runtime, with the settings that this project gives MLServer."""
    return Server(
        key=STOCK,
        title="MLServer's xgboost runtime",
        command=(_tool("mlserver"), "start", "model-settings/churn-xgboost"),
        directory=root,
        ready_path="/v2/models/churn-xgboost/ready",
        questions={"v2-rest": question.stock_rest(corpus), "v2-grpc": question.stock_grpc(corpus)},
        environment=PORTS | _mlserver_settings(root),
    )


def bare(root: Path, corpus: Corpus) -> Server:
    """Return the ceiling: uvicorn, uvloop and httptools answering a constant."""
    return Server(
        key=BARE,
        title="bare ASGI app (the ceiling)",
        command=(_peer_tool(root, "fastapi", "uvicorn"), "service:app", "--port", "{rest}", "--no-access-log"),
        directory=PEERS / "bare_asgi",
        ready_path="/",
        questions={"predict": question.constant(corpus)},
    )


def fastapi(root: Path, corpus: Corpus) -> Server:
    """Return the decision record's reversal plan."""
    return Server(
        key=FASTAPI,
        title="FastAPI by hand",
        command=(_peer_tool(root, "fastapi", "uvicorn"), "service:app", "--port", "{rest}", "--no-access-log"),
        directory=PEERS / "fastapi_by_hand",
        ready_path="/ready",
        questions={"predict": question.predict(corpus)},
        environment=_peer_environment(corpus),
    )


def peers(root: Path, corpus: Corpus) -> list[Server]:
    """Return FastAPI by hand, BentoML and KServe."""
    return [
        fastapi(root, corpus),
        Server(
            key=BENTOML,
            title="BentoML, default settings",
            command=(_peer_tool(root, "bentoml", "bentoml"), "serve", "service:ChurnPredictor", "--port", "{rest}"),
            directory=PEERS / "bentoml_service",
            ready_path="/readyz",
            questions={"predict": question.bento_predict(corpus)},
            environment=_peer_environment(corpus)
            | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(root / "var" / "peers" / "bentoml" / "home")},
        ),
        Server(
            key=KSERVE,
            title="KServe's Python server",
            command=(
                _peer_tool(root, "kserve", "python"),
                *("service.py", "--http_port", "{rest}", "--grpc_port", "{grpc}", "--enable_grpc", "false"),
            ),
            directory=PEERS / "kserve_model",
            ready_path="/v2/models/churn/ready",
            questions={"v2-rest": question.v2_rest(corpus)},
            environment=_peer_environment(corpus),
        ),
    ]


def _mlserver_settings(root: Path) -> dict[str, str]:
    settings = json.loads((root / "model-settings" / "settings.json").read_text())
    return {f"MLSERVER_{name.upper()}": json.dumps(value) for name, value in settings.items()}


def _peer_environment(corpus: Corpus) -> dict[str, str]:
    return {"PEER_MODEL": str(corpus.model.resolve()), "PEER_FEATURES": str(corpus.table.resolve())}


def _peer_tool(root: Path, peer: str, tool: str) -> str:
    return str(root / "var" / "peers" / peer / "venv" / "bin" / tool)


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)
