"""One look at the world: the deployment, its mesh, the evidence and a person's word, as the rules take them."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.analysis import Evidence
from rollout.annotation import COMMAND
from rollout.changes import foreign_change, same_weights
from rollout.state import Command, RolloutState
from rollout.targets.target import Snapshot
from rollout.verdict import GateResult, Verdict, combine


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the world gave.

    dt_s: seconds watched since the last look. ready: the canary is (or in Finishing: what is left is). follows: the
    mesh has the weights that the state asks for. foreign: what somebody else changed, in words; empty: nothing.
    restarts: that change makes the evidence worthless (another canary image). results: what the gates say, empty where
    nothing was analysed. The request counts are those since the last look, and only while the mesh followed.
    """

    dt_s: float
    ready: bool = True
    follows: bool = True
    foreign: str = ""
    restarts: bool = False
    results: tuple[GateResult, ...] = ()
    canary_requests: int = 0
    stable_requests: int = 0
    command: Command | None = None

    @property
    def verdict(self) -> Verdict:
        """All gates together."""
        return combine(self.results)

    @property
    def opens(self) -> bool:
        """Whether a person opens what waits for one."""
        return self.command in (Command.PROMOTE, Command.PROMOTE_FULL)


def look(snapshot: Snapshot, state: RolloutState, evidence: Evidence, dt_s: float, command: Command | None) -> Seen:
    """Compare what is there with what the state asks for. command: what a person says here, before any annotation."""
    deployment = snapshot.deployment
    follows = same_weights(snapshot.mesh_weights, state.weights)
    if state.step < 0:  # at 0 % a route for the canary is the proof that its pods were all ready
        follows = follows and state.canary in snapshot.mesh_weights
    word = deployment.metadata.annotations.get(COMMAND)
    change = foreign_change(state, deployment)
    readiness = snapshot.readiness.get(state.canary)
    return Seen(
        dt_s=dt_s,
        ready=readiness is not None and readiness.ready,
        follows=follows,
        foreign=change.message,
        restarts=change.restarts,
        results=evidence.results,
        canary_requests=evidence.requests.get(state.canary, 0),
        stable_requests=evidence.requests.get(state.stable, 0),
        command=command or (Command(word) if word in list(Command) else None),
    )
