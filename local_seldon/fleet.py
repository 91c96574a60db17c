"""All replicas of a deployment: started where one lacks, kept while they are needed, drained when they are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import structlog

from local_seldon.deployment import check_supported, grace_s, replicas, template
from local_seldon.environment import Overrides, environment
from local_seldon.ports import Ports
from local_seldon.probe import ReadinessProbe
from local_seldon.process import Command, Process
from local_seldon.replica import Replica
from local_seldon.routes import Endpoint
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment

log = structlog.get_logger()

# Between leaving the mesh and SIGTERM, for requests that were routed just before: the operator's preStop is `sleep 10`.
PRE_STOP_S = 0.5


@dataclass
class Fleet:
    """Replicas by predictor. command: what stands in for every image; directory: where it is started."""

    command: Sequence[str]
    directory: Path
    overrides: Overrides
    inherited: Mapping[str, str]
    log_directory: Path
    changed: Callable[[], None]
    replicas: list[Replica] = field(default_factory=list)
    _client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)

    def ensure(self, deployment: SeldonDeployment, predictor: Predictor) -> None:
        """Start what a predictor lacks. Raises LocalSeldonError when it cannot run here; then nothing is started."""
        current = template(predictor)
        running = {replica.number for replica in self.of(predictor.name) if replica.template == current}
        missing = [number for number in range(replicas(deployment, predictor)) if number not in running]
        if missing:
            self.check(deployment, predictor)
        for number in missing:
            replica = self._replica(deployment, predictor, number, current)
            self.replicas.append(replica)
            replica.start()

    def check(self, deployment: SeldonDeployment, predictor: Predictor) -> None:
        """Raise LocalSeldonError when a predictor cannot run here."""
        check_supported(deployment)
        environment(deployment, predictor, Ports(0, 0, 0), self.overrides, self.inherited)

    def of(self, predictor: str) -> list[Replica]:
        """Return a predictor's replicas, those before its last edit included."""
        return [replica for replica in self.replicas if replica.predictor == predictor]

    def available(self, predictor: Predictor) -> int:
        """Return how many replicas of a predictor as it is now are ready."""
        current = template(predictor)
        return sum(replica.ready for replica in self.of(predictor.name) if replica.template == current)

    def is_ready(self, deployment: SeldonDeployment, predictor: Predictor) -> bool:
        """Tell whether all replicas that a predictor wants are ready."""
        return self.available(predictor) >= replicas(deployment, predictor) > 0

    def needed(self, deployment: SeldonDeployment, routed: Collection[str]) -> list[Replica]:
        """Return the replicas to keep: wanted, or without a ready successor, or of a predictor that is still routed."""
        wanted = {predictor.name: predictor for predictor in deployment.predictors}

        def is_needed(replica: Replica) -> bool:
            predictor = wanted.get(replica.predictor)
            if predictor is None:
                return replica.predictor in routed
            if replica.template != template(predictor):
                return not self.is_ready(deployment, predictor)
            return replica.number < replicas(deployment, predictor)

        return [replica for replica in self.replicas if is_needed(replica)]

    def keep_only(self, kept: Collection[Replica]) -> None:
        """Drain the others. They must have left the mesh before."""
        for replica in [replica for replica in self.replicas if replica not in kept]:
            self.replicas.remove(replica)
            task = asyncio.create_task(self._leave(replica))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def processes(self) -> list[Process]:
        """Return the processes of all replicas that are not being drained."""
        return [replica.process for replica in self.replicas]

    async def drain(self) -> None:
        """Stop everything, at once and in parallel."""
        await asyncio.gather(*self._leaving, *(replica.stop() for replica in self.replicas))
        await self._client.aclose()

    async def _leave(self, replica: Replica) -> None:
        await asyncio.sleep(PRE_STOP_S)
        await replica.stop()
        log.info("replica_stopped", predictor=replica.predictor, replica=replica.number)

    def _replica(self, deployment: SeldonDeployment, predictor: Predictor, number: int, current: str) -> Replica:
        def command(ports: Ports) -> Command:
            env = environment(deployment, predictor, ports, self.overrides, self.inherited)
            return Command(self.command, env, self.directory)

        return Replica(
            predictor=predictor.name,
            number=number,
            template=current,
            command=command,
            probe=ReadinessProbe.of(predictor.model_container),
            grace_s=grace_s(predictor),
            log_directory=self.log_directory,
            client=self._client,
            changed=self.changed,
        )


def answering(kept: Sequence[Replica], predictors: Collection[str]) -> list[Endpoint]:
    """Return who shares each predictor's traffic: the ready ones, as a Service's endpoints.

    Where none is ready, all: callers then see the failure instead of another predictor's answer.
    """
    endpoints: list[Endpoint] = []
    for name in dict.fromkeys(replica.predictor for replica in kept if replica.predictor in predictors):
        of_name = [replica for replica in kept if replica.predictor == name]
        endpoints.extend(replica.endpoint for replica in [one for one in of_name if one.ready] or of_name)
    return endpoints
