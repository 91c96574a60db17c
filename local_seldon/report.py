"""What a deployment here tells of itself: its `.status`, and where everything runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from local_seldon import leftovers
from local_seldon.deployment import status
from local_seldon.fleet import Fleet
from local_seldon.proxy import Proxy
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.local_store import LocalStore, write_json


class Report:
    """The two files that `status`, `down` and the next start read."""

    def __init__(self, store: LocalStore, source: Path) -> None:
        self._store = store
        self._source = source
        self._written: dict[str, Any] = {}

    def write(
        self,
        deployment: SeldonDeployment,
        available: Mapping[str, int],
        fleet: Fleet,
        proxy: Proxy,
        failures: Collection[str],
    ) -> None:
        """Write both, where they differ from what was written last; failures: what is wrong now, in words.

        available: ready replicas by predictor, as the mesh was told: who reads Available may send requests at once.
        """
        processes = [proxy.edge, proxy.mesh, *fleet.processes()]
        pids = [process.pid for process in processes if process.pid is not None]
        runtime = {
            "controller_pid": os.getpid(),
            "source": str(self._source),
            "url": proxy.url,
            "admin_socket": str(proxy.admin_socket),
            "predictors": {
                name: [replica.to_json() for replica in fleet.of(name)]
                for name in dict.fromkeys(replica.predictor for replica in fleet.replicas)
            },
            "processes": [found for pid in pids if (found := leftovers.identity(pid))],
        }
        url = f"{proxy.url}/seldon/{deployment.namespace}/{deployment.name}"
        wanted = status(deployment, available, url=url, failures=failures)
        # The status last: who waits for it reads where everything runs next.
        self._write(self._store.runtime_file, runtime)
        self._write(self._store.status_file, wanted)

    def _write(self, file: Path, document: dict[str, Any]) -> None:
        if self._written.get(file.name) != document:
            write_json(file, document)
            self._written[file.name] = document
