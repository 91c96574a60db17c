"""Turns counters into verdicts: takes samples, builds windows and evaluates the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.analysis.counts import ZERO, Counts
from rollout.analysis.gates import GateState, blank, update
from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.state import RolloutState
from rollout.errors import EvidenceError
from rollout.evidence.source import Source


@dataclass(frozen=True, slots=True)
class Evidence:
    """The result of one window: the gates' results, their state to be written, and requests per predictor."""

    results: tuple[GateResult, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)


class Analyst:
    """Judges the window between two samples. `keep` ends a window; one that was not written is evaluated again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: Mapping[str, Counts] | None = None
        self._latest: Mapping[str, Counts] | None = None

    @property
    def counts(self) -> Mapping[str, Counts]:
        """The latest sample, cumulative per predictor."""
        return self._latest or {}

    def look(self, state: RolloutState, predictors: Sequence[str]) -> Evidence:
        """Take a sample, and judge what happened since the last kept sample. At 0 % nothing is judged."""
        try:
            self._latest = sample = self._source.sample(predictors)
        except EvidenceError as error:
            self._latest = self._kept
            results = blank(state.plan.gates, Verdict.ERROR, str(error)) if state.step >= 0 else ()
            return Evidence(results, state.evidence)
        before = self._kept
        if state.step < 0 or before is None:
            return Evidence(_waiting(state) if state.step >= 0 else (), state.evidence)
        windows = {name: counts - before.get(name, ZERO) for name, counts in sample.items()}
        gates, results = update(
            state.plan.gates,
            GateState.from_json(state.evidence) if state.evidence else GateState(),
            windows.get(state.stable),
            windows.get(state.canary),
            compare=state.step < state.plan.last,
        )
        requests = {name: window.requests for name, window in windows.items()}
        return Evidence(results, gates.to_json(), requests)

    def keep(self) -> None:
        """Begin the next window, because the results of this one were written."""
        self._kept = self._latest

    @staticmethod
    def next_step(state: RolloutState) -> RolloutState:
        """Return the state for the next step: evidence for promotion starts again, evidence of harm is kept."""
        if not state.evidence:
            return state
        return state.but(evidence=GateState.from_json(state.evidence).next_step().to_json())


def present_results(state: RolloutState) -> tuple[GateResult, ...]:
    """Return the gates' results for the evidence in a state, without a new window; empty at 0 %."""
    if state.step < 0 or not state.analyse:
        return ()
    if not state.evidence:
        return _waiting(state)
    _, results = update(
        state.plan.gates, GateState.from_json(state.evidence), ZERO, ZERO, compare=state.step < state.plan.last
    )
    return results


def _waiting(state: RolloutState) -> tuple[GateResult, ...]:
    """Return results that say the first window is still open. Counts from before this process are no evidence."""
    return blank(state.plan.gates, Verdict.NO_DATA, "the first window has just begun")
