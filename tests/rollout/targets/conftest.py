"""The places that a contract test runs in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from rollout.targets.kubernetes import SELDON, KubernetesTarget
from rollout.targets.kubernetes_connection import Connection
from tests.support.kube_api import kube_api
from tests.support.local_seldon_world import Local, predictor
from tests.support.local_seldon_world import manifest as local_manifest
from tests.support.programs import GUARD_S
from tests.support.rollout_world import FakeClock, manifest
from tests.support.seldon_operator import SeldonOperator
from tests.support.targets.memory import MemoryTarget
from tests.support.targets.scene import Scene


@pytest.fixture
def memory() -> Scene:
    clock = FakeClock()
    target = MemoryTarget(manifest(), clock, starts_in_s=1.0)

    def unready(name: str, on: bool) -> None:
        (target.unready.add if on else target.unready.discard)(name)

    def operator_dead(dead: bool) -> None:
        target.operator_alive = not dead

    return Scene(target, unready, operator_dead, pause=lambda: clock.sleep(0.5))


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with kube_api(tmp_path) as (api, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        connection = Connection(timeout_s=GUARD_S)
        create = client.CustomObjectsApi.create_namespaced_custom_object
        connection.call("create it", create, **SELDON, namespace="models", body=manifest())
        with SeldonOperator(str(kubeconfig), "models") as operator:

            def unready(name: str, on: bool) -> None:
                (operator.unready.add if on else operator.unready.discard)(name)

            def operator_dead(dead: bool) -> None:
                operator.paused = api.webhook_dead = dead

            target = KubernetesTarget("churn", connection)
            yield Scene(target, unready, operator_dead, operator_state=lambda: operator.state)
            assert operator.error is None


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Scene]:
    one = Local(tmp_path, local_manifest(predictor("v7", 100)))
    one.start()
    try:
        one.available()
        yield Scene(
            one.target,
            lambda name, on: one.turn(f"unready-{name}", on=on),
            lambda dead: one.control(operator_alive=not dead),
        )
    finally:
        one.stop()


@pytest.fixture(params=["memory", "kubernetes", "local"])
def scene(request: pytest.FixtureRequest) -> Scene:
    target: Scene = request.getfixturevalue(request.param)
    return target
