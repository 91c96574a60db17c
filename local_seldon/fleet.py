"""All replicas of a deployment: the Deployments and autoscalers of a cluster, with pods that are processes here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from local_seldon.deployment import autoscaled, check_supported, grace_s, replicas, template
from local_seldon.environment import Overrides, environment
from local_seldon.graph.pod import Pod, pod_of
from local_seldon.process import Command, Process
from local_seldon.replica import LONGEST_PERIOD_S, Ports, ReadinessProbe, Replica
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.local_store import Controls

log = structlog.get_logger()

# The delay between removal from the mesh and SIGTERM, for requests routed just before; the operator's is `sleep 10`.
PRE_STOP_S = 0.5
AUTOSCALER_PERIOD_S = 1.0
"""The autoscaler's interval; 15 s in a cluster. A new Deployment has one replica until the first interval ends."""


@dataclass
class Fleet:
    """Replicas by predictor. command: runs in place of every image; directory: its working directory."""

    command: Sequence[str]
    directory: Path
    overrides: Overrides
    inherited: Mapping[str, str]
    log_directory: Path
    changed: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    replicas: list[Replica] = field(default_factory=list)
    _scale: dict[str, int] = field(default_factory=dict)  # replicas of each Deployment that an autoscaler sets
    _scaled_s: dict[str, float] = field(default_factory=dict)  # time of its autoscaler's last check
    _client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)

    def scale(self, deployment: SeldonDeployment, controls: Controls) -> None:
        """Let each autoscaler whose interval is over set its Deployment's replicas."""
        now_s = self.clock()
        for predictor in deployment.predictors:
            name = predictor.name
            if not autoscaled(predictor):
                self._scale.pop(name, None)
                continue
            if name not in self._scale:
                self._scale[name], self._scaled_s[name] = 1, now_s
            elif now_s - self._scaled_s[name] >= AUTOSCALER_PERIOD_S:
                self._scaled_s[name] = now_s
                wanted = replicas(deployment, predictor, controls.replicas.get(name))
                if wanted != self._scale[name]:
                    log.info("scaled", predictor=name, replicas=self._scale[name], to=wanted)
                    self._scale[name] = wanted
        names = {predictor.name for predictor in deployment.predictors}
        self._scale = {name: number for name, number in self._scale.items() if name in names}

    def wanted(self, deployment: SeldonDeployment, predictor: Predictor) -> int:
        """Return the desired number of replicas of a predictor's Deployment."""
        return self._scale.get(predictor.name, 1) if autoscaled(predictor) else replicas(deployment, predictor)

    def ensure(self, deployment: SeldonDeployment, predictor: Predictor, controls: Controls) -> None:
        """Start missing replicas. Raises LocalSeldonError, and starts none, when the predictor cannot run here."""
        current = template(predictor)
        running = {replica.number for replica in self.of(predictor.name) if replica.template == current}
        missing = [number for number in range(self.wanted(deployment, predictor)) if number not in running]
        if missing:
            self.check(deployment, predictor)
        for number in missing:
            image_pull_s = controls.image_pull_s.get(predictor.name, 0.0)
            replica = self._replica(deployment, predictor, number, current, image_pull_s)
            self.replicas.append(replica)
            replica.start()

    def check(self, deployment: SeldonDeployment, predictor: Predictor) -> None:
        """Raise LocalSeldonError when a predictor cannot run here."""
        check_supported(deployment)
        for unit in predictor.graph.nodes():
            environment(deployment, predictor, Ports(0, 0, 0), self.overrides, self.inherited, unit)

    def of(self, predictor: str) -> list[Replica]:
        """Return a predictor's replicas, including those from before its last edit."""
        return [replica for replica in self.replicas if replica.predictor == predictor]

    def available(self, predictor: Predictor) -> int:
        """Return the number of ready replicas of the current version of a predictor."""
        current = template(predictor)
        return sum(replica.ready for replica in self.of(predictor.name) if replica.template == current)

    def is_ready(self, deployment: SeldonDeployment, predictor: Predictor) -> bool:
        """Return whether all desired replicas of a predictor are ready, as the operator requires of each Deployment."""
        return self.available(predictor) >= self.wanted(deployment, predictor) > 0

    def needed(self, deployment: SeldonDeployment, routed: Collection[str]) -> list[Replica]:
        """Return the replicas to keep: desired, without a ready successor, or of a predictor with a route."""
        wanted = {predictor.name: predictor for predictor in deployment.predictors}

        def is_needed(replica: Replica) -> bool:
            predictor = wanted.get(replica.predictor)
            if predictor is None:
                return replica.predictor in routed
            if replica.template != template(predictor):
                return not self.is_ready(deployment, predictor)
            return replica.number < self.wanted(deployment, predictor)

        return [replica for replica in self.replicas if is_needed(replica)]

    def keep_only(self, kept: Collection[Replica]) -> None:
        """Drain the other replicas. They must have left the mesh before."""
        for replica in [replica for replica in self.replicas if replica not in kept]:
            self.replicas.remove(replica)
            task = asyncio.create_task(self._leave(replica))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def processes(self) -> list[Process]:
        """Return the processes of all replicas that are not being drained."""
        return [replica.process for replica in self.replicas]

    async def drain(self) -> None:
        """Stop all replicas in parallel."""
        await asyncio.gather(*self._leaving, *(replica.stop() for replica in self.replicas))
        await self._client.aclose()

    async def _leave(self, replica: Replica) -> None:
        await asyncio.sleep(PRE_STOP_S)
        await replica.stop()
        log.info("replica_stopped", predictor=replica.predictor, replica=replica.number)

    def _pod(self, deployment: SeldonDeployment, predictor: Predictor, ports: Ports, name: str) -> Pod:
        return pod_of(
            deployment,
            predictor,
            ports,
            self.overrides,
            name=name,
            command=self.command,
            directory=self.directory,
            log_directory=self.log_directory,
            inherited=self.inherited,
        )

    def _replica(
        self, deployment: SeldonDeployment, predictor: Predictor, number: int, current: str, image_pull_s: float
    ) -> Replica:
        def command(ports: Ports) -> Command:
            if predictor.graph.children:
                return self._pod(deployment, predictor, ports, f"{predictor.name}-{number}").command(self.inherited)
            env = environment(deployment, predictor, ports, self.overrides, self.inherited)
            return Command(self.command, env, self.directory)

        return Replica(
            predictor=predictor.name,
            number=number,
            template=current,
            command=command,
            probe=_probe(predictor),
            grace_s=grace_s(predictor),
            log_directory=self.log_directory,
            client=self._client,
            changed=self.changed,
            image_pull_s=image_pull_s,
        )


def _probe(predictor: Predictor) -> ReadinessProbe:
    """Return the probe of a pod: its container's, or that of every container through the executor."""
    if predictor.graph.children:
        return ReadinessProbe(path="/v2/health/ready", period_s=LONGEST_PERIOD_S, timeout_s=5.0, failures=3)
    return ReadinessProbe.of(predictor.model_container)


def ready_ports(kept: Sequence[Replica]) -> dict[str, list[Ports]]:
    """Return the ready replicas of each predictor, like the endpoints of a Service; may be empty."""
    found: dict[str, list[Ports]] = {}
    for replica in kept:
        found.setdefault(replica.predictor, []).extend([replica.ports] if replica.ready else [])
    return found
