"""A pod with several containers: every node of a graph as a process, and the executor in this one.

    python -m local_seldon.graph.pod      with the pod's description as JSON in LOCAL_SELDON_POD

It is one replica of a predictor to the rest of `local_seldon`: SIGTERM ends the executor first, which answers what is
in flight, and then the containers. A container that dies is started again while the others run on, as the kubelet does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn
from pydantic import BaseModel, ConfigDict

from local_seldon.deployment import PREPACKAGED, grace_s
from local_seldon.environment import INHERITED, Overrides, container_of, environment
from local_seldon.graph.executor import HOST, Executor, Node
from local_seldon.process import Command, Process
from local_seldon.replica import Ports
from rollout.manifest.predictor import Predictor, Unit
from rollout.manifest.seldon import SeldonDeployment

VARIABLE = "LOCAL_SELDON_POD"
# Of the pod's grace period: what the executor has for the requests in flight, before the containers are ended.
_EXECUTOR_END_S = 3.0


class ContainerProcess(BaseModel):
    """The process in place of one container."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


class Pod(BaseModel):
    """What runs: the graph with its ports, the containers, the executor's port and where everything is logged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    graph: Node
    containers: tuple[ContainerProcess, ...]
    port: int
    directory: Path
    log_directory: Path
    grace_s: float = 20.0
    timeout_s: float | None = None

    def command(self, inherited: Mapping[str, str]) -> Command:
        """Return the command that runs this pod."""
        env = {name: inherited[name] for name in INHERITED if name in inherited} | {VARIABLE: self.model_dump_json()}
        return Command((sys.executable, "-m", "local_seldon.graph.pod"), env, self.directory)


def pod_of(
    deployment: SeldonDeployment,
    predictor: Predictor,
    ports: Ports,
    overrides: Overrides,
    *,
    name: str,
    command: Sequence[str],
    directory: Path,
    log_directory: Path,
    inherited: Mapping[str, str],
) -> Pod:
    """Return the pod of one replica; ports: the executor's, and the metrics port of the root. Raises LocalSeldonError.

    command: what runs in place of an image whose container declares no command.
    """
    containers: list[ContainerProcess] = []

    def node_of(unit: Unit) -> Node:
        own = Ports.free()
        if unit is predictor.graph:  # evidence is scraped where the predictor's metrics are expected
            own = replace(own, metrics=ports.metrics)
        argv = _argv(predictor, unit, command, log_directory / f"{name}-{unit.name}.model")
        env = environment(deployment, predictor, own, overrides, inherited, unit)
        containers.append(ContainerProcess(name=unit.name, argv=argv, env=env))
        kind = unit.type or ("MODEL" if unit.implementation in PREPACKAGED else "UNKNOWN_TYPE")
        return Node(name=unit.name, type=kind, port=own.http, children=tuple(map(node_of, unit.children)))

    graph = node_of(predictor.graph)
    timeout_ms = (deployment.spec.model_extra or {}).get("annotations", {}).get("seldon.io/rest-timeout")
    return Pod(
        name=name,
        graph=graph,
        containers=tuple(containers),
        port=ports.http,
        directory=directory,
        log_directory=log_directory,
        grace_s=max(1.0, grace_s(predictor) - _EXECUTOR_END_S),
        timeout_s=int(timeout_ms) / 1000 if timeout_ms else None,
    )


def _argv(predictor: Predictor, unit: Unit, command: Sequence[str], empty: Path) -> tuple[str, ...]:
    """Return the program of a node: the prepackaged server's, the container's own, or the one that serves here."""
    mlserver = str(Path(sys.executable).with_name("mlserver"))
    if unit.implementation in PREPACKAGED:
        empty.mkdir(parents=True, exist_ok=True)  # no model-settings.json: everything comes from the environment
        return (mlserver, "start", str(empty))
    more = container_of(predictor, unit).model_extra or {}
    declared = [*more.get("command", []), *more.get("args", [])]
    if not declared:
        return tuple(command)
    return ({"mlserver": mlserver, "python": sys.executable}.get(declared[0], declared[0]), *declared[1:])


async def run(pod: Pod) -> None:
    """Run the pod until SIGTERM or SIGINT."""
    processes = [
        Process(
            f"{pod.name}-{one.name}",
            lambda one=one: Command(one.argv, one.env, pod.directory),  # type: ignore[misc]
            pod.log_directory / f"{pod.name}-{one.name}.log",
            ends_with_us=True,
        )
        for one in pod.containers
    ]
    for process in processes:
        process.start()
    config = uvicorn.Config(
        Executor(pod.graph, pod.timeout_s).app(),
        host=HOST,
        port=pod.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(_EXECUTOR_END_S),
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        await asyncio.gather(*(process.stop(pod.grace_s) for process in processes))


def main() -> None:
    """Read the pod's description and run it."""
    asyncio.run(run(Pod.model_validate_json(os.environ[VARIABLE])))


if __name__ == "__main__":
    main()
