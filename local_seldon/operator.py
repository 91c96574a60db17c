"""The control loop for a SeldonDeployment: the operator's part, which can be dead, and the rest of the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from local_seldon.deployment import APPLIED, ManifestFile, status
from local_seldon.environment import Overrides
from local_seldon.envoy import Envoy
from local_seldon.envoy_config import Json, Routes, route_configuration
from local_seldon.errors import LocalSeldonError
from local_seldon.fleet import Fleet, ready_ports
from local_seldon.process import end, identity
from local_seldon.replica import Replica
from rollout.errors import RolloutError, Unavailable
from rollout.manifest.parsing import parse
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.envoy import read_mirrors, read_weights
from rollout.targets.local_store import Controls, LocalStore, write_json

log = structlog.get_logger()

POLL_S = 0.1  # interval between checks of the files
RESYNC_S = 1.0  # interval between full comparisons without a known change


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a deployment. command: runs in place of every image; directory: its working directory."""

    command: Sequence[str]
    directory: Path
    port: int = 8080
    overrides: Overrides = field(default_factory=Overrides)
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Operator:
    """Runs one deployment until it is stopped.

    The operator applies the spec: the predictors, their weights once every replica of every predictor is ready, and the
    status. While it is dead (`Controls.operator_alive`) Deployments, autoscalers, endpoints and Envoy use the spec that
    it applied last.
    """

    def __init__(self, source: Path, store: LocalStore, options: Options) -> None:
        self._source = source
        self._file = ManifestFile(source, store)
        self._store = store
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
        self._refused: dict[str, str] = {}  # the current problem, by predictor
        self._written: dict[str, Any] = {}

    def stop(self) -> None:
        """Request `run` to drain everything and return."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Run until `stop`. Raises LocalSeldonError or RolloutError when the deployment cannot start."""
        clear(self._store.runtime())
        for stale in (self._store.runtime_file, self._store.status_file):
            stale.unlink(missing_ok=True)
        existed = self._store.object_file.exists()
        try:
            await self._run()
        finally:
            if self._stopping.is_set() or not existed:  # otherwise a crash left a rollout to continue
                self._store.remove()
                (self._store.directory / APPLIED).unlink(missing_ok=True)

    async def _run(self) -> None:
        self._file.apply(first=True)
        self._carried_out = deployment = parse(self._store.read())
        for predictor in deployment.predictors:
            self._fleet.check(deployment, predictor)
        shutil.rmtree(self._logs, ignore_errors=True)
        self._envoy = Envoy(port=self._port, state_directory=self._store.directory, log_directory=self._logs)
        try:
            await self._envoy.start(route_configuration(Routes(deployment.namespace, deployment.name)))
            log.info("listening", url=self._envoy.url, deployment=deployment.name)
            await self._reconcile_for_ever()
        finally:
            # Envoy first: it accepts nothing new and answers what is in flight before the processes end.
            await self._envoy.stop()
            await self._fleet.drain()
            log.info("stopped")

    async def _reconcile_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        seen: object = None
        last_s = 0.0
        while not self._stopping.is_set():
            if self._file.apply():
                self._changed.set()
            stamps = [_stamp(file) for file in (self._store.object_file, self._store.controls_file)]
            if self._changed.is_set() or stamps != seen or loop.time() - last_s >= RESYNC_S:
                self._changed.clear()
                seen, last_s = stamps, loop.time()
                try:
                    await self._reconcile()
                except RolloutError as error:  # for example while Envoy restarts: the next resync tries again
                    log.warning("reconcile_failed", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), POLL_S)

    async def _reconcile(self) -> None:
        controls = self._controls()
        if controls.operator_alive:
            self._carried_out = parse(self._store.read())
        deployment = self._carried_out
        self._fleet.scale(deployment, controls)
        for predictor in deployment.predictors:
            try:
                self._fleet.ensure(deployment, predictor, controls)
                self._refused.pop(predictor.name, None)
            except LocalSeldonError as error:
                self._refused[predictor.name] = str(error)
        named = {predictor.name for predictor in deployment.predictors}
        self._refused = {name: text for name, text in self._refused.items() if name in named}
        # Changes during the write to Envoy belong to the next round: the status describes what the mesh has.
        scale = {
            one.name: (self._fleet.wanted(deployment, one), self._fleet.available(one))
            for one in deployment.predictors
            if self._fleet.of(one.name)
        }
        ready = all(self._fleet.is_ready(deployment, predictor) for predictor in deployment.predictors)
        weights = deployment.weights() if ready and controls.operator_alive else None
        kept = self._fleet.needed(deployment, self._routed_by(weights))
        await self._envoy.add(ready_ports(kept))
        if controls.operator_alive:
            await self._envoy.route(lambda routes: self._routes(deployment, kept, routes, weights))
        self._fleet.keep_only(kept)
        await self._envoy.keep_only({replica.predictor for replica in kept})
        self._report(deployment, scale, kept, controls)

    def _routed_by(self, weights: Mapping[str, int] | None) -> list[str]:
        """Return the predictors with traffic; None: the weights are frozen, and the mesh keeps its own."""
        found = read_weights(self._envoy.routes()) if weights is None else weights
        return [name for name, percent in found.items() if percent]

    def _routes(
        self, deployment: SeldonDeployment, kept: Sequence[Replica], routes: Json, weights: Mapping[str, int] | None
    ) -> Json:
        """Return the routes: the spec's if every replica is ready, else with the current weights.

        The weights are frozen while anything is unready, as with Seldon's operator: manual changes are kept too, and a
        predictor that has never been ready has no route.
        """
        running = {replica.predictor for replica in kept}
        shadows = {one.name: one.traffic or 100 for one in deployment.predictors if one.shadow}
        found = {name: percent for name, percent in (weights or read_weights(routes)).items() if name in running}
        routed = found if any(found.values()) else {}
        if weights is None:
            shadows = {name: percent for name, percent in read_mirrors(routes).items() if name in running}
        return route_configuration(
            Routes(
                namespace=deployment.namespace,
                name=deployment.name,
                weights=routed,
                mirrors=shadows if routed else {},
                chosen=[*routed, *shadows] if routed else [],
            )
        )

    def _report(
        self,
        deployment: SeldonDeployment,
        scale: Mapping[str, tuple[int, int]],
        kept: Sequence[Replica],
        controls: Controls,
    ) -> None:
        """Write runtime.json and, unless the operator is dead, status.json, where they have changed."""
        processes = [self._envoy.process, *self._fleet.processes()]
        pids = [process.pid for process in processes if process.pid is not None]
        runtime = {
            "controller_pid": os.getpid(),
            "source": str(self._source),
            "url": self._envoy.url,
            "admin_socket": str(self._envoy.admin_socket),
            "operator": "alive" if controls.operator_alive else "dead",
            "deployments": {
                name: {"replicas": wanted, "available": available} for name, (wanted, available) in scale.items()
            },
            "predictors": {
                name: [replica.to_json() for replica in kept if replica.predictor == name]
                for name in dict.fromkeys(replica.predictor for replica in kept)
            },
            "processes": [found for pid in pids if (found := identity(pid))],
        }
        # The status last: a reader that waits for it reads runtime.json next.
        self._write(self._store.runtime_file, runtime)
        if controls.operator_alive:
            failures = [text for text in (self._file.refused, *self._refused.values()) if text]
            url = f"{self._envoy.url}/seldon/{deployment.namespace}/{deployment.name}"
            self._write(self._store.status_file, status(deployment, scale, url=url, failures=failures))

    def _write(self, file: Path, document: dict[str, Any]) -> None:
        if self._written.get(file.name) != document:
            write_json(file, document)
            self._written[file.name] = document

    def _controls(self) -> Controls:
        try:
            return self._store.controls()
        except (ValidationError, ValueError) as error:
            raise Unavailable(f"{self._store.controls_file} cannot be read: {error}") from error


def clear(runtime: Mapping[str, Any]) -> list[int]:
    """End the processes of a killed controller and remove its sockets. Return the pids of the ended processes."""
    ended = end(runtime.get("processes", []))
    if admin_socket := runtime.get("admin_socket"):
        shutil.rmtree(Path(admin_socket).parent, ignore_errors=True)
    return ended


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
