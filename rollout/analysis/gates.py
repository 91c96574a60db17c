"""The gates of a rollout: windows of counts in, verdicts with their reasons out; pure, and safe to ask at any time.

Two kinds of evidence are kept per gate. *Harm* runs through the whole rollout, so `alpha` bounds the chance that a
canary as good as stable is ever rolled back; it is split over the gates by their `share` (Bonferroni), and it counts
pods and windows, not requests (clusters.py). *Proof* of being good starts anew with each step, since a canary may be
fine at 10 % and not at 50 %. All gates must pass, so a bad canary is promoted only if the gate that it violates is
wrong: `pass_alpha` needs no split (an intersection-union test, Berger 1982).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import numpy as np
from pydantic import PlainSerializer, TypeAdapter

from rollout.analysis.clusters import Array, Clusters, Column, prior
from rollout.analysis.counts import ZERO, Arm, Counts
from rollout.analysis.drift import DriftState
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.rate_gates import Context, Event, RateState, RelativeGate, SloGate, Tally, warming
from rollout.analysis.verdict import GateResult, Verdict

MAX_PODS: Final = 64
"""Rows of the state for each version; pods beyond share the last one, so that an annotation never grows too large."""
CALLERS: Final = "callers"
COLD: Final = "cold"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one version in the order of their rows, with the seconds that each has had traffic.

    fresh: it was not there when the rollout began to be measured.
    """

    names: tuple[str, ...] = ()
    age_s: tuple[Annotated[float, PlainSerializer(lambda age_s: round(age_s, 3))], ...] = ()
    fresh: tuple[bool, ...] = ()

    def row(self, name: str) -> int:
        """Return the row of a pod."""
        return self.names.index(name) if name in self.names else MAX_PODS - 1

    def joined(self, arm: Arm, *, age_s: float, fresh: bool) -> Pods:
        """Return them with those that are new; age_s: how long a new one counts as having had traffic."""
        new = [name for name in arm.pods if name not in self.names][: MAX_PODS - len(self.names)]
        return Pods(self.names + tuple(new), self.age_s + (age_s,) * len(new), self.fresh + (fresh,) * len(new))

    def aged(self, arm: Arm, seconds: float) -> Pods:
        """Return them after a window: a pod that had requests in it is older."""
        had = [name in arm.pods and arm.pods[name].requests > 0 for name in self.names]
        return replace(self, age_s=tuple(age + seconds * one for age, one in zip(self.age_s, had, strict=True)))


@dataclass(frozen=True, slots=True)
class GateState:
    """All evidence so far. As JSON it is about 5 kB, and 0.4 kB more for each pod; read back, the same test goes on.

    `stable` and `canary` are the counts of this step, `canary_before` and `stable_before` those of the steps before.
    `clusters` by event, by `callers.` and an event, and by `cold.` and an event for pods that warm up.
    """

    stable: Counts = ZERO
    canary: Counts = ZERO
    canary_before: Counts = ZERO
    stable_before: Counts = ZERO
    stable_pods: Pods = field(default_factory=Pods)
    canary_pods: Pods = field(default_factory=Pods)
    clusters: Mapping[str, Clusters] = field(default_factory=dict)
    rates: Mapping[str, RateState] = field(default_factory=dict)
    drift: DriftState = field(default_factory=DriftState)

    def next_step(self) -> GateState:
        """Begin a step: harm is remembered, proof starts anew."""
        return GateState(
            canary_before=self.canary_before + self.canary,
            stable_before=self.stable_before + self.stable,
            stable_pods=self.stable_pods,
            canary_pods=self.canary_pods,
            clusters={name: clusters.next_step() for name, clusters in self.clusters.items()},
            drift=self.drift.next_step(),
        )


GATES_JSON: Final = TypeAdapter(GateState)
"""Reads and writes a GateState as JSON."""


def update(
    config: GateConfig,
    state: GateState,
    stable_window: Arm | None,
    canary_window: Arm | None,
    *,
    seconds: float = 10.0,
    compare: bool = True,
) -> tuple[GateState, tuple[GateResult, ...]]:
    """Take in one window of both versions, `seconds` long, and return the new state with every gate's answer.

    None is a predictor without data. With `compare` False (no traffic goes to stable, by plan: the last step and the
    bake) only the absolute gates answer; the others have nothing to compare with and are left out, as are the gates on
    what callers see where nobody counts that.
    """
    window = _Window(config, state, stable_window or Arm(), canary_window or Arm())
    stable, canary = window.stable.total, window.canary.total
    clusters = window.taken()
    rates = dict(state.rates)
    for name, gate in config.rates.items():
        mine, theirs = window.tallies(gate)
        rates[name] = gate.take(rates.get(name, RateState()), theirs, mine)
    state = replace(
        state,
        stable=state.stable + stable,
        canary=state.canary + canary,
        stable_pods=window.stable_pods.aged(window.stable, seconds),
        canary_pods=window.canary_pods.aged(window.canary, seconds),
        clusters=clusters,
        rates=rates,
    )
    if config.drift and compare:
        state = replace(state, drift=config.drift.take(state.drift, state.stable, state.canary))
    judged = _judged(config, state, _missing(state, stable_window, canary_window), window.canary.mesh, compare=compare)
    return state, tuple(judged)


def blank(config: GateConfig, verdict: Verdict, reason: str) -> tuple[GateResult, ...]:
    """Return the same answer for every gate: how a source that is down (no data) or wrong (error) is recorded."""
    return tuple(GateResult(name, verdict, reason, dry_run=gate.dry_run) for name, gate in config.gates.items())


class _Window:
    """One window, with each pod's row, and which pods take part in which gate."""

    def __init__(self, config: GateConfig, state: GateState, stable: Arm, canary: Arm) -> None:
        self.config, self.state, self.stable, self.canary = config, state, stable, canary
        begins = not state.stable_pods.names
        # The pods that were there before the rollout are warm; those that come later start cold, as the canary's do.
        self.stable_pods = state.stable_pods.joined(stable, age_s=config.warm_up_s if begins else 0.0, fresh=not begins)
        self.canary_pods = state.canary_pods.joined(canary, age_s=0.0, fresh=True)

    def taken(self) -> dict[str, Clusters]:
        """Return the clusters of all events with this window in them."""
        taken = dict(self.state.clusters)
        for event in ("errors", "rejected", "slow"):
            rows = (len(self.canary_pods.names), len(self.stable_pods.names))
            requests, events = self._cells(event, cold=False)
            taken[event] = _grown(taken.get(event), *rows).window(requests, events)
            if event in self.config.warm_up:
                requests, events = self._cells(event, cold=True)
                if requests[0].any():
                    name = f"{COLD}.{event}"
                    taken[name] = _grown(taken.get(name), *rows).window(requests, events)
            if self.canary.mesh is not None and self.canary.mesh.requests:
                name, seen = f"{CALLERS}.{event}", [arm.mesh or ZERO for arm in (self.canary, self.stable)]
                requests = (np.array([float(seen[0].requests)]), np.array([float(seen[1].requests)]))
                events = (np.array([float(_events(seen[0], event))]), np.array([float(_events(seen[1], event))]))
                taken[name] = _grown(taken.get(name), 1, 1).window(requests, events)
        return taken

    def tallies(self, gate: RelativeGate | SloGate) -> tuple[Tally, Tally]:
        """Return what counts as proof of this window: the canary's, and stable's."""
        if gate.seen_by == CALLERS:
            seen = [arm.mesh or ZERO for arm in (self.canary, self.stable)]
            mine, theirs = (Tally(counts.requests, _events(counts, gate.event)) for counts in seen)
            return mine, theirs
        requests, events = self._cells(gate.event, cold=False)
        mine, theirs = (Tally(int(n.sum()), int(x.sum())) for n, x in zip(requests, events, strict=True))
        return mine, theirs

    def _cells(self, event: Event, *, cold: bool) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return requests and events per row, canary's and stable's, of the pods that are cold, or of the others."""
        sums = []
        for pods, arm, only_fresh in (
            (self.canary_pods, self.canary, False),
            (self.stable_pods, self.stable, self.config.baseline == "fresh"),
        ):
            n, x = np.zeros(len(pods.names)), np.zeros(len(pods.names))
            for name, counts in arm.pods.items():
                row = pods.row(name)
                warms = event in self.config.warm_up and pods.age_s[row] < self.config.warm_up_s
                if warms == cold and (pods.fresh[row] or not only_fresh):
                    n[row] += counts.requests
                    x[row] += getattr(counts, event)
            sums.append((n, x))
        return (sums[0][0], sums[1][0]), (sums[0][1], sums[1][1])


def _events(counts: Counts, event: Event) -> int:
    """Return the events of a gateway's window; its latencies may arrive after the requests that they belong to."""
    return min(counts.requests, int(getattr(counts, event)))


def _judged(
    config: GateConfig, state: GateState, missing: Mapping[bool, str], mesh: Counts | None, *, compare: bool
) -> Iterator[GateResult]:
    """Ask each gate. missing: by whether stable is needed, which version has no data; empty: none."""
    youngest_s = min(state.canary_pods.age_s, default=0.0)
    left_s = config.warm_up_s - youngest_s
    context = Context(config.alpha, config.pass_alpha, prior(config.pods_differ), config.slo_ms, left_s)
    for name, gate in config.rates.items():
        relative = isinstance(gate, RelativeGate)
        clusters = state.clusters[gate.event]
        if gate.seen_by == CALLERS:
            seen = state.clusters.get(f"{CALLERS}.{gate.event}")
            if seen is None or mesh is None:
                continue
            clusters = seen
        elif relative and not compare:
            continue
        elif said := missing[relative]:
            yield GateResult(name, Verdict.NO_DATA, said, dry_run=gate.dry_run)
            continue
        if isinstance(gate, SloGate):
            cold = None if gate.seen_by == CALLERS else state.clusters.get(f"{COLD}.{gate.event}")
            yield gate.judge(name, state.rates[name], clusters, context, cold)
        elif not clusters.canary[..., Column.REQUESTS].any():
            yield GateResult(name, Verdict.INCONCLUSIVE, warming(left_s), dry_run=gate.dry_run)
        elif not clusters.stable[..., Column.REQUESTS].any():
            yield GateResult(name, Verdict.NO_DATA, _no_baseline(config), dry_run=gate.dry_run)
        else:
            yield gate.judge(name, state.rates[name], clusters, context)
    if config.restarts:
        arms = (
            (state.canary_before + state.canary, state.canary_pods),
            (state.stable_before + state.stable, state.stable_pods),
        )
        mine, theirs = ((counts.restarts, counts.oom_kills, len(pods.names)) for counts, pods in arms)
        if mine[2]:
            yield config.restarts.judge("restarts", mine, theirs)
    if config.drift and compare:
        yield (
            GateResult("drift", Verdict.NO_DATA, missing[True], dry_run=config.drift.dry_run)
            if missing[True]
            else config.drift.judge(state.drift, state.stable, state.canary, config.alpha, config.pass_alpha)
        )


def _no_baseline(config: GateConfig) -> str:
    if config.baseline == "fresh":
        return (
            "no pod of stable has started during the rollout and had requests, and the baseline is `fresh`; "
            "scale stable up by a pod, or set the gates' baseline to `stable`"
        )
    return "stable's pods warm up: they are measured, and not compared yet"


def _missing(state: GateState, stable: Arm | None, canary: Arm | None) -> dict[bool, str]:
    """Say which version has no data, without and with stable; the empty string: none."""

    def said(arm: str, window: Arm | None, total: Counts) -> str:
        if window is None or (window.mesh is not None and not window.pods):
            return f"{arm} has no series at the metric source"
        return "" if total.requests else f"{arm} has had no request in this step"

    mine = said("the canary", canary, state.canary)
    return {False: mine, True: mine or said("stable", stable, state.stable)}


def _grown(clusters: Clusters | None, canary: int, stable: int) -> Clusters:
    """Return the clusters with rows for that many pods."""
    if clusters is None:
        return Clusters.none((canary,), (stable,))
    rows = [
        np.concatenate([cells, np.zeros((count - len(cells), len(Column)))]) if count > len(cells) else cells
        for cells, count in ((clusters.canary, canary), (clusters.stable, stable))
    ]
    return replace(clusters, canary=rows[0], stable=rows[1])
