"""Turns counters into verdicts: takes samples, builds windows and evaluates the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from rollout.analysis.counts import Arm, Counts
from rollout.analysis.gates import GATES_JSON, GateState, blank, update
from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.state import RolloutState
from rollout.errors import EvidenceError
from rollout.evidence.source import Reading, Source

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The result of one window: the gates' results, their state to be written, and requests per predictor.

    callers_requests: those of callers to all predictors in `seconds`, whether or not the window is judged.
    """

    results: tuple[GateResult, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    callers_requests: int = 0
    seconds: float = 0.0


class Analyst:
    """Judges the window between two samples. `keep` ends a window; one that was not written is evaluated again.

    After a change of weights, the first scrapes hold requests of the weights before. Harm is judged in them as always;
    proof, and the share of requests, count from the reading that holds later requests only.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: Reading | None = None
        self._latest: Reading | None = None
        self._weights: tuple[int, int] | None = None
        self._changed = False
        self._followed: Reading | None = None
        self._settled = False
        self._has_copies = False

    @property
    def counts(self) -> Mapping[str, Counts]:
        """The latest sample, cumulative per predictor."""
        latest = self._latest.over(self._kept) if self._latest else Reading()
        return {name: arm.total for name, arm in latest.arms.items()}

    def look(self, state: RolloutState, predictors: Sequence[str]) -> Evidence:
        """Take a sample, and judge what happened since the last kept sample.

        Without requests to the canary (at 0 % and no mirror) nothing is judged.
        """
        try:
            self._latest = latest = self._source.sample(predictors)
        except EvidenceError as error:
            self._latest = self._kept
            results = blank(state.plan.gates, Verdict.ERROR, str(error)) if state.counted else ()
            return Evidence(results, state.evidence)
        kept = self._kept
        if not state.counted:
            self._weights = (state.step, 0)
        if kept is None:
            return Evidence(_waiting(state) if state.counted else (), state.evidence)
        windows = {name: arm - kept.arms.get(name, Arm()) for name, arm in latest.arms.items()}
        seconds = max(0.0, latest.at_s - kept.at_s)
        traffic = self._callers_requests(state, windows)
        if not state.counted:
            return Evidence((), state.evidence, callers_requests=traffic, seconds=seconds)
        began = self._settle(state, kept)
        gates = gate_state(state)
        gates, results = update(
            state.plan.gates,
            gates.next_step() if began else gates,
            windows.get(state.stable),
            windows.get(state.canary),
            seconds=seconds,
            compare=state.step < state.plan.last,
        )
        if not self._settled:
            return Evidence(_unsettled(results), GATES_JSON.dump_python(gates, mode="json"), {}, traffic, seconds)
        requests = {name: window.total.requests for name, window in windows.items()}
        return Evidence(results, GATES_JSON.dump_python(gates, mode="json"), requests, traffic, seconds)

    def keep(self) -> None:
        """Begin the next window, because the results of this one were written."""
        self._kept = self._latest.over(self._kept) if self._latest else None

    def _settle(self, state: RolloutState, kept: Reading) -> bool:
        """Find out whether the counts since `kept` are all from the present weights; say whether that begins now."""
        weights = (state.step, state.canary_percent)
        following = _following(state)
        if weights != self._weights or not following:
            # A promoter that takes over goes on with the proof that there is.
            self._changed = self._weights is not None and (weights != self._weights or self._changed)
            self._weights, self._followed, self._settled = weights, None, False
        if following and self._followed is None:
            self._followed = kept  # taken when the mesh was last seen to follow
        began = not self._settled and self._followed is not None and kept.settled_since(self._followed)
        self._settled = self._settled or began
        return began and self._changed

    def _callers_requests(self, state: RolloutState, windows: Mapping[str, Arm]) -> int:
        """Return the requests of callers; the canary's are copies until the mesh has the routes after the shadow."""
        self._has_copies = self._has_copies or bool(state.mirror_percent)
        names = (state.stable,) if self._has_copies else (state.stable, state.canary)
        self._has_copies = bool(state.mirror_percent) or (self._has_copies and not _following(state))
        return sum(windows[name].total.requests for name in names if name in windows)

    @staticmethod
    def next_step(state: RolloutState) -> RolloutState:
        """Return the state for the next step: evidence for promotion starts again, evidence of harm is kept."""
        if not state.evidence:
            return state
        return state.but(evidence=GATES_JSON.dump_python(gate_state(state).next_step(), mode="json"))


def present_results(state: RolloutState) -> tuple[GateResult, ...]:
    """Return the gates' results for the evidence in a state, without a new window; empty at 0 %."""
    if not (state.counted and state.analyse):
        return ()
    if not state.evidence:
        return _waiting(state)
    return update(state.plan.gates, gate_state(state), Arm(), Arm(), compare=state.step < state.plan.last)[1]


def gate_state(state: RolloutState) -> GateState:
    """Return the gates' evidence in a state.

    Evidence that somebody has edited, or another release has written, is lost: the gates begin anew, because a canary
    that fails must still be rolled back.
    """
    if not state.evidence:
        return GateState()
    try:
        return GATES_JSON.validate_python(state.evidence)
    except ValueError as error:
        log.warning("gate_evidence_unreadable", rollout=state.id, detail=str(error).splitlines()[0])
        return GateState()


def _following(state: RolloutState) -> bool:
    """Return whether the mesh had the weights when it was last looked at."""
    return state.timers.step_s > 0 and state.timers.lag_s == 0


def _waiting(state: RolloutState) -> tuple[GateResult, ...]:
    """Return results that say the first window is still open. Counts from before this process are no evidence."""
    return blank(state.plan.gates, Verdict.NO_DATA, "the first window has just begun")


def _unsettled(results: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
    """Let only harm count: the counts still hold requests from before the mesh had the weights."""
    reason = "waiting for counts that begin after the mesh had these weights"
    return tuple(
        result
        if result.verdict is Verdict.FAIL
        else GateResult(result.name, Verdict.NO_DATA, reason, dry_run=result.dry_run)
        for result in results
    )
