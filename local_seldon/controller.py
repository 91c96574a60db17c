"""The operator's part on one machine: a loop that makes processes and mesh be what the live object says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog

from local_seldon import leftovers
from local_seldon.caddy import Endpoint, Routes
from local_seldon.deployment import check_supported, grace_s, read_manifest, replicas, status, template
from local_seldon.environment import Overrides, environment
from local_seldon.errors import LocalSeldonError, ProxyError
from local_seldon.ports import Ports
from local_seldon.probe import ReadinessProbe
from local_seldon.process import Command
from local_seldon.proxy import Proxy
from local_seldon.replica import Replica
from rollout.errors import RolloutError
from rollout.seldon import Predictor, SeldonDeployment, parse, to_dict
from rollout.targets.caddy import read_weights
from rollout.targets.local_store import LocalStore, write_json

log = structlog.get_logger()

POLL_S = 0.1  # how often files are looked at
RESYNC_S = 1.0  # how often everything is compared although nothing was seen to change
# Between leaving the mesh and SIGTERM, for requests that were routed just before: the operator's preStop is `sleep 10`.
PRE_STOP_S = 0.5
APPLIED = "applied.sha256"  # of the manifest file that the live object was made from


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
        self._source = source
        self._store = store
        self._options = options
        self._logs = store.directory / "logs"
        self._replicas: list[Replica] = []
        self._stops: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._client = httpx.AsyncClient()
        self._weights: dict[str, int] = {}
        self._refused: dict[str, str] = {}  # what is wrong now: by predictor, or "" for the source file
        self._written: dict[str, Any] = {}
        self._applied = ""

    def stop(self) -> None:
        """Ask `run` to drain everything and return."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Run until `stop`. Raises LocalSeldonError or RolloutError when the deployment cannot even begin."""
        leftovers.clear(self._store.runtime())
        self._apply_source(first=True)
        deployment = parse(self._store.read())
        check_supported(deployment)
        shutil.rmtree(self._logs, ignore_errors=True)
        self._proxy = Proxy(port=self._options.port, state_directory=self._store.directory, log_directory=self._logs)
        try:
            await self._proxy.start(self._routes(deployment, []))
            log.info("listening", url=self._proxy.url, deployment=deployment.name)
            await self._reconcile_for_ever()
        finally:
            await self._drain()

    async def _reconcile_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        seen, last_s = None, 0.0
        while not self._stopping.is_set():
            self._apply_source()
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

    def _apply_source(self, *, first: bool = False) -> None:
        """Apply the manifest file where its content is new, as `kubectl apply` would. Only the first time it raises."""
        try:
            content = self._source.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest == self._applied:
                return
            self._applied = digest
            applied_before = self._store.directory / APPLIED
            if (
                first
                and self._store.object_file.exists()
                and applied_before.exists()
                and applied_before.read_text() == digest
            ):
                return  # after a crash: what a rollout has changed since stays
            self._store.put(to_dict(read_manifest(content)))
            applied_before.write_text(digest)
            self._refused.pop("", None)
            log.info("manifest_applied", file=str(self._source))
        except (OSError, RolloutError) as error:
            if first:
                raise
            self._refused[""] = f"{self._source}: {error}"
            log.warning("manifest_refused", file=str(self._source), error=str(error))
        self._changed.set()

    async def _reconcile(self) -> None:
        deployment = parse(self._store.read())
        for predictor in deployment.predictors:
            self._ensure(deployment, predictor)
        config = await self._proxy.read()
        ready = {predictor.name: self._is_ready(deployment, predictor) for predictor in deployment.predictors}
        if all(ready.values()):
            self._weights = deployment.weights()
        else:  # frozen, as the operator does: whatever is in the mesh stays, a hand-made change included
            self._weights = read_weights(config)
        kept = [replica for replica in self._replicas if self._is_kept(deployment, replica, ready)]
        wanted = self._proxy.config_of(self._routes(deployment, kept))
        if wanted != config:
            await self._proxy.load(wanted)
            log.info("routed", weights=self._weights, frozen=not all(ready.values()))
        for replica in [replica for replica in self._replicas if replica not in kept]:
            self._replicas.remove(replica)
            self._stop(replica)
        self._report(deployment)

    def _ensure(self, deployment: SeldonDeployment, predictor: Predictor) -> None:
        """Start what a predictor lacks."""
        current = template(predictor)
        running = {replica.number for replica in self._of(predictor.name, current)}
        missing = [number for number in range(replicas(deployment, predictor)) if number not in running]
        if not missing:
            return
        try:
            check_supported(deployment)
            environment(deployment, predictor, Ports(0, 0, 0), self._options.overrides, self._options.inherited)
        except LocalSeldonError as error:
            self._refused[predictor.name] = str(error)
            return
        self._refused.pop(predictor.name, None)
        for number in missing:
            replica = self._replica(deployment, predictor, number, current)
            self._replicas.append(replica)
            replica.start()

    def _replica(self, deployment: SeldonDeployment, predictor: Predictor, number: int, current: str) -> Replica:
        options = self._options

        def command(ports: Ports) -> Command:
            env = environment(deployment, predictor, ports, options.overrides, options.inherited)
            return Command(options.command, env, options.directory)

        return Replica(
            predictor=predictor.name,
            number=number,
            template=current,
            command=command,
            probe=ReadinessProbe.of(predictor.model_container),
            grace_s=grace_s(predictor),
            log_directory=self._logs,
            client=self._client,
            changed=self._changed.set,
        )

    def _of(self, predictor: str, of_template: str | None = None) -> list[Replica]:
        return [
            replica
            for replica in self._replicas
            if replica.predictor == predictor and of_template in (None, replica.template)
        ]

    def _available(self, predictor: Predictor) -> int:
        return sum(replica.ready for replica in self._of(predictor.name, template(predictor)))

    def _is_ready(self, deployment: SeldonDeployment, predictor: Predictor) -> bool:
        return self._available(predictor) >= replicas(deployment, predictor) > 0

    def _is_kept(self, deployment: SeldonDeployment, replica: Replica, ready: Mapping[str, bool]) -> bool:
        """Keep a replica while its predictor wants it, its successor is not ready, or the mesh still names it."""
        if replica.predictor not in ready:
            return self._weights.get(replica.predictor, 0) > 0
        predictor = deployment.predictor(replica.predictor)
        if replica.template != template(predictor):
            return not ready[replica.predictor]
        return replica.number < replicas(deployment, predictor)

    def _routes(self, deployment: SeldonDeployment, kept: Sequence[Replica]) -> Routes:
        endpoints: list[Endpoint] = []
        names = dict.fromkeys(replica.predictor for replica in kept)
        for name in names:
            of_name = [replica for replica in kept if replica.predictor == name]
            # As a Service's endpoints: those that are ready; with none, all, so that callers see the failure.
            answering = [replica for replica in of_name if replica.ready] or of_name
            endpoints.extend(replica.endpoint for replica in answering)
        weights = {name: self._weights.get(name, 0) for name in names} if self._weights else {}
        return Routes(
            namespace=deployment.namespace,
            name=deployment.name,
            weights=weights if any(weights.values()) else {},
            endpoints=endpoints,
            replicas=[replica.endpoint for replica in kept],
        )

    def _stop(self, replica: Replica) -> None:
        async def leave() -> None:
            await asyncio.sleep(PRE_STOP_S)
            await replica.stop()
            log.info("replica_stopped", predictor=replica.predictor, replica=replica.number)

        task = asyncio.create_task(leave())
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    def _report(self, deployment: SeldonDeployment) -> None:
        """Write `.status` and where everything runs, where they differ from what was written last."""
        current = {predictor.name: self._of(predictor.name) for predictor in deployment.predictors}
        available = {
            predictor.name: self._available(predictor) for predictor in deployment.predictors if current[predictor.name]
        }
        self._refused = {name: text for name, text in self._refused.items() if name in ("", *current)}
        url = f"{self._proxy.url}/seldon/{deployment.namespace}/{deployment.name}"
        self._write(self._store.status_file, status(deployment, available, url=url, failures=self._refused.values()))
        processes = [self._proxy.edge, self._proxy.mesh, *(replica.process for replica in self._replicas)]
        pids = [os.getpid(), *(process.pid for process in processes if process.pid is not None)]
        runtime = {
            "controller_pid": os.getpid(),
            "source": str(self._source),
            "url": self._proxy.url,
            "admin_socket": str(self._proxy.admin_socket),
            "predictors": {
                name: [replica.to_json() for replica in self._of(name)]
                for name in dict.fromkeys(replica.predictor for replica in self._replicas)
            },
            "processes": [found for pid in pids[1:] if (found := leftovers.identity(pid))],
        }
        self._write(self._store.runtime_file, runtime)

    def _write(self, file: Path, document: dict[str, Any]) -> None:
        if self._written.get(file.name) != document:
            write_json(file, document)
            self._written[file.name] = document

    async def _drain(self) -> None:
        """Stop answering at the edge, then end every process, then delete the object: nothing is left behind."""
        await self._proxy.stop()
        await asyncio.gather(*self._stops, *(replica.stop() for replica in self._replicas))
        await self._client.aclose()
        self._store.remove()
        for name in ("edge.json", "mesh.json", APPLIED):
            (self._store.directory / name).unlink(missing_ok=True)
        log.info("stopped")
