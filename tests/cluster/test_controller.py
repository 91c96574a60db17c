"""The controller against a real API server, with the rights of seldon/controller/rbac.yaml and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from kubernetes import client, utils

from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import Phase
from rollout.targets.kubernetes_connection import Connection
from rollout.targets.kubernetes_lease import CONTROLLER, KubernetesLease
from tests.cluster.test_rollout import PLAN, ROOT, admin, namespace, operator, promoter, scene
from tests.support.programs import eventually
from tests.support.prometheus_api import Traffic, prometheus_api
from tests.support.seldon_operator import SeldonOperator
from tests.support.targets.scene import Scene

__all__ = ["admin", "namespace", "operator", "promoter", "scene"]  # fixtures

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]


@pytest.fixture
def account(admin: client.ApiClient, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """A KUBECONFIG for an account that has the rights of seldon/controller/rbac.yaml, and no others."""
    name = f"rollout-{namespace}"
    _, role, binding = yaml.safe_load_all((ROOT / "seldon/controller/rbac.yaml").read_text())
    utils.create_from_dict(
        admin, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, namespace=namespace
    )
    role["metadata"]["name"] = binding["metadata"]["name"] = binding["roleRef"]["name"] = name
    binding["subjects"] = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    for document in (role, binding):
        utils.create_from_dict(admin, document)
    asked: Any = client.CoreV1Api(admin).create_namespaced_service_account_token(
        name, namespace, cast(Any, {"spec": {"expirationSeconds": 3600}})
    )
    kubeconfig = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    kubeconfig["users"] = [{"name": "controller", "user": {"token": asked.status.token}}]
    for context in kubeconfig["contexts"]:
        context["context"] |= {"user": "controller", "namespace": "default"}
    file = tmp_path / "controller.kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig))
    yield file
    rights = client.RbacAuthorizationV1Api(admin)
    rights.delete_cluster_role_binding(name)
    rights.delete_cluster_role(name)


def test_rollouts_end_through_a_kill(
    account: Path, operator: SeldonOperator, scene: Scene, namespace: str, tmp_path: Path
) -> None:
    """The first controller is killed; the second one promotes, then drives an undo that it sees begin."""
    traffic = Traffic(lambda: operator.mesh_history[-1])
    session = Session(scene.target, lease_s=1, presence=KubernetesLease(CONTROLLER, Connection(namespace=namespace)))
    log = tmp_path / "controller.log"

    def begin(url: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "commands.main", "rollout", "controller", "--lease", "1", "--port", "0",
            "--log", str(tmp_path / "logs"), "--evidence", f"prometheus={url}",
        ]  # fmt: skip
        with log.open("a") as output:
            return subprocess.Popen(
                command, env={**os.environ, "KUBECONFIG": str(account)}, stdout=output, stderr=output
            )

    def over(rollout_id: str) -> Phase:
        last = eventually(
            session.last,
            lambda found: found is not None and found.id == rollout_id and found.phase.over,
            within_s=90,
            what=log.read_text()[-3000:],
        )
        assert last is not None
        return last.phase

    with prometheus_api(traffic) as url:
        first = begin(url)
        second: subprocess.Popen[bytes] | None = None
        try:
            begun = session.begin(lambda: session.prepare(Release("v8", image="churn:8"), PLAN))
            eventually(lambda: scene.target.read().mesh_weights.get("v8", 0) >= 10, within_s=60)
            assert session.controller().startswith("controller@")
            first.kill()
            first.wait(10)
            second = begin(url)
            assert over(begun.id) is Phase.SUCCEEDED
            scene.until(lambda: scene.target.read().mesh_weights == {"v8": 100})
            again = eventually(lambda: _undo(session), within_s=30)
            assert again is not None
            assert over(again) is Phase.SUCCEEDED
            assert set(scene.target.read().deployment.traffic()) == {"v7"}
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
        finally:
            for process in (first, second):
                if process is not None:
                    process.kill()
                    process.wait(10)
    denied = [line for line in log.read_text().splitlines() if namespace in line and "not allowed (403" in line]
    assert denied == []


def _undo(session: Session) -> str | None:
    """Begin an undo; None while the driver of the rollout before still holds its lease."""
    from rollout.errors import LeaseHeld

    try:
        return session.begin(lambda: session.prepare_undo(PLAN)).id
    except LeaseHeld:
        return None
