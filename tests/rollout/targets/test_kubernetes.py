"""What only the Kubernetes target can get wrong."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from rollout.targets.target import Readiness
from tests.support.targets.scene import Scene


class Watched:
    """The Kubernetes client, which imports each API at its first use, with a list of what was used."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(client, name)


def test_a_read_with_unready_pods_imports_no_api_of_the_client(
    kubernetes: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes.unready("v7", True)
    kubernetes.until(lambda: kubernetes.target.read().readiness.get("v7") == Readiness(1, 0))
    watched = Watched()
    monkeypatch.setattr("rollout.targets.kubernetes.client", watched)
    kubernetes.target.read()
    assert watched.used == {"CustomObjectsApi"}
