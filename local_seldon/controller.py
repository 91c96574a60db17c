"""The operator's part on one machine: a loop that makes processes and mesh be what the live object says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from local_seldon import leftovers
from local_seldon.environment import Overrides
from local_seldon.errors import LocalSeldonError, ProxyError
from local_seldon.fleet import Fleet, answering
from local_seldon.manifest_file import APPLIED, ManifestFile
from local_seldon.proxy import Proxy
from local_seldon.replica import Replica
from local_seldon.report import Report
from local_seldon.routes import Routes
from rollout.errors import RolloutError
from rollout.manifest.parsing import parse
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.caddy import read_weights
from rollout.targets.local_store import LocalStore

log = structlog.get_logger()

POLL_S = 0.1  # how often files are looked at
RESYNC_S = 1.0  # how often everything is compared although nothing was seen to change


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment runs here. command: what stands in for every image; directory: where it is started."""

    command: Sequence[str]
    directory: Path
    port: int = 8080
    overrides: Overrides = field(default_factory=Overrides)
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Controller:
    """Runs one deployment until it is asked to stop."""

    def __init__(self, source: Path, store: LocalStore, options: Options) -> None:
        self._file = ManifestFile(source, store)
        self._store = store
        self._report = Report(store, source)
        self._port = options.port
        self._logs = store.directory / "logs"
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._fleet = Fleet(
            command=options.command,
            directory=options.directory,
            overrides=options.overrides,
            inherited=options.inherited,
            log_directory=self._logs,
            changed=self._changed.set,
        )
        self._weights: dict[str, int] = {}
        self._refused: dict[str, str] = {}  # what is wrong now, by predictor

    def stop(self) -> None:
        """Ask `run` to drain everything and return."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Run until `stop`. Raises LocalSeldonError or RolloutError when the deployment cannot even begin."""
        leftovers.clear(self._store.runtime())
        for stale in (self._store.runtime_file, self._store.status_file):
            stale.unlink(missing_ok=True)
        existed = self._store.object_file.exists()
        try:
            await self._run()
        finally:
            if self._stopping.is_set() or not existed:  # else a crash before this one left a rollout to go on with
                self._remove()

    async def _run(self) -> None:
        self._file.apply(first=True)
        deployment = parse(self._store.read())
        for predictor in deployment.predictors:
            self._fleet.check(deployment, predictor)
        shutil.rmtree(self._logs, ignore_errors=True)
        self._proxy = Proxy(port=self._port, state_directory=self._store.directory, log_directory=self._logs)
        try:
            await self._proxy.start(self._routes(deployment, []))
            log.info("listening", url=self._proxy.url, deployment=deployment.name)
            await self._reconcile_for_ever()
        finally:
            # The edge first: nothing new is taken on, and what is in flight is answered before the processes end.
            await self._proxy.stop()
            await self._fleet.drain()
            log.info("stopped")

    async def _reconcile_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        seen, last_s = None, 0.0
        while not self._stopping.is_set():
            if self._file.apply():
                self._changed.set()
            stamp = self._store.object_file.stat().st_mtime_ns
            if self._changed.is_set() or stamp != seen or loop.time() - last_s >= RESYNC_S:
                self._changed.clear()
                seen, last_s = stamp, loop.time()
                try:
                    await self._reconcile()
                except (ProxyError, RolloutError) as error:  # Caddy restarting, say: the next resync tries again
                    log.warning("reconcile_failed", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), POLL_S)

    async def _reconcile(self) -> None:
        deployment = parse(self._store.read())
        for predictor in deployment.predictors:
            try:
                self._fleet.ensure(deployment, predictor)
                self._refused.pop(predictor.name, None)
            except LocalSeldonError as error:
                self._refused[predictor.name] = str(error)
        config = await self._proxy.read()
        # What changes while the mesh is written is the next round's: the status tells of what the mesh knows.
        available = {one.name: self._fleet.available(one) for one in deployment.predictors if self._fleet.of(one.name)}
        ready = all(self._fleet.is_ready(deployment, predictor) for predictor in deployment.predictors)
        # Frozen while anything is unready, as the operator does: what is in the mesh stays, hand-made changes included.
        self._weights = deployment.weights() if ready else read_weights(config)
        kept = self._fleet.needed(deployment, [name for name, percent in self._weights.items() if percent])
        wanted = self._proxy.config_of(self._routes(deployment, kept))
        if wanted != config:
            await self._proxy.load(wanted)
            log.info("routed", weights=self._weights, frozen=not ready)
        self._fleet.keep_only(kept)
        named = {predictor.name for predictor in deployment.predictors}
        self._refused = {name: text for name, text in self._refused.items() if name in named}
        failures = [text for text in (self._file.refused, *self._refused.values()) if text]
        self._report.write(deployment, available, self._fleet, self._proxy, failures)

    def _routes(self, deployment: SeldonDeployment, kept: Sequence[Replica]) -> Routes:
        """Return the mesh's routes. Only predictors that have been ready are in it, so an unready one has no route."""
        endpoints = answering(kept, self._weights)
        found = {endpoint.predictor for endpoint in endpoints}
        weights = {name: percent for name, percent in self._weights.items() if name in found}
        return Routes(
            namespace=deployment.namespace,
            name=deployment.name,
            weights=weights if any(weights.values()) else {},
            endpoints=endpoints,
            replicas=[replica.endpoint for replica in kept],
        )

    def _remove(self) -> None:
        self._store.remove()
        for name in ("edge.json", "mesh.json", APPLIED):
            (self._store.directory / name).unlink(missing_ok=True)
