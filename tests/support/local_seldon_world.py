"""A real deployment on this machine: an operator in a thread, Envoy, and processes of a stub server."""

from __future__ import annotations

import asyncio
import copy
import sys
import threading
from pathlib import Path
from typing import Any

import yaml

from local_seldon.environment import Overrides
from local_seldon.operator import Operator, Options
from local_seldon.process import identity
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore
from tests.support.programs import GUARD_S, eventually

STUB = Path(__file__).parent / "stub_server.py"
NAME, NAMESPACE = "churn", "models"
BASE = f"/seldon/{NAMESPACE}/{NAME}"


def predictor(
    name: str,
    traffic: int,
    *,
    replicas: int = 1,
    env: dict[str, str] | None = None,
    scale: tuple[int, int] | None = None,
    shadow: bool = False,
) -> dict[str, Any]:
    """Return a predictor of stub servers; scale: minReplicas and maxReplicas of an autoscaler."""
    container = {
        "name": "churn",
        "image": f"churn-serving:{name[1:]}",
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "ports": [
            {"name": port, "containerPort": number}
            for port, number in {"http": 9000, "grpc": 9500, "metrics": 6000}.items()
        ],
        "readinessProbe": {
            "httpGet": {"path": "/v2/models/churn/ready", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 10,  # on a busy machine an answer is late, and its predictor no less ready
            "failureThreshold": 1,
        },
    }
    pod: dict[str, Any] = {"spec": {"containers": [container], "terminationGracePeriodSeconds": 5}}
    if scale:
        pod["hpaSpec"] = {"minReplicas": scale[0], "maxReplicas": scale[1], "metricsv2": []}
    return {
        "name": name,
        "traffic": traffic,
        "replicas": replicas,
        **({"shadow": True} if shadow else {}),
        "annotations": {"seldon.io/no-engine": "true"},
        "graph": {"name": "churn", "type": "MODEL"},
        "componentSpecs": [pod],
    }


def manifest(*predictors: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"protocol": "v2", "predictors": list(copy.deepcopy(predictors))},
    }


def is_alive(pid: int) -> bool:
    """Return whether a process runs; False for one that has ended and was not waited for."""
    return identity(pid) is not None


class Local:
    """One deployment that runs here."""

    def __init__(self, directory: Path, document: dict[str, Any], *, port: int = 0) -> None:
        self.file = directory / "deployment.yaml"
        self.switches = directory / "switches"
        self.switches.mkdir()
        self.write(document)
        self.store = LocalStore.of(directory / "state", NAMESPACE, NAME)
        self.target = LocalTarget(self.store)
        overrides = Overrides(
            artifacts={f"churn-serving:{version}": f"/bundles/{version}" for version in range(1, 10)},
            env={"STUB_SWITCHES": str(self.switches)},
        )
        options = Options(command=(sys.executable, str(STUB)), directory=directory, port=port, overrides=overrides)
        self.operator = Operator(self.file, self.store, options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.operator.stop)
        self._thread.join(GUARD_S)
        assert not self._thread.is_alive()

    def write(self, document: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(document))
        new.replace(self.file)  # the controller never reads half of it

    def control(self, **changes: Any) -> None:
        self.store.control(self.store.controls().model_copy(update=changes))

    def turn(self, switch: str, *, on: bool) -> None:
        (self.switches / switch).touch() if on else (self.switches / switch).unlink()

    @property
    def url(self) -> str:
        return str(self.store.runtime()["url"])

    def state(self) -> str:
        if self.error:
            raise self.error
        return str(self.store.read().get("status", {}).get("state")) if self.store.object_file.exists() else ""

    def weights(self) -> dict[str, int]:
        return dict(self.target.read().mesh_weights)

    def replicas(self, name: str) -> list[dict[str, Any]]:
        return list(self.store.runtime()["predictors"].get(name, []))

    def available(self) -> None:
        eventually(lambda: self.state() == "Available")

    def set_traffic(self, **percents: int) -> None:
        names = [one.name for one in self.target.read().deployment.predictors]
        self.target.patch(
            [
                {"op": "add", "path": f"/spec/predictors/{names.index(name)}/traffic", "value": percent}
                for name, percent in percents.items()
            ]
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self.operator.run())
        except Exception as error:
            self.error = error
        finally:
            self._loop.close()
