"""The gates on how often something happens: against stable (relative), and against an objective.

Both read the same evidence of one event, pods and windows as clusters (clusters.py), and keep a proof of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from rollout.analysis.clusters import Array, Clusters, Column
from rollout.analysis.sequential import Proof, relative_null
from rollout.analysis.verdict import GateResult, Verdict

Event = Literal["errors", "rejected", "slow"]
COLD_FACTOR: Final = 10.0
"""While pods warm up, an objective may be missed by this factor before that is harm, up to half of all requests."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many requests there were, and in how many the event happened."""

    requests: int = 0
    hits: int = 0

    @property
    def rate(self) -> float:
        """The event's share of the requests, 0 without any."""
        return self.hits / self.requests if self.requests else 0.0

    @classmethod
    def of_step(cls, cells: Array) -> Tally:
        """Add up the pods of one version in this step."""
        return cls(round(cells[..., Column.REQUESTS].sum()), round(cells[..., Column.EVENTS].sum()))


@dataclass(frozen=True, slots=True)
class Context:
    """What all gates share when they judge: the error rates, the prior of SPREADS, the objective, and the warm-up."""

    alpha: float
    pass_alpha: float
    weights: Array
    slo_ms: float
    warm_left_s: float = 0.0

    def words(self, event: Event) -> str:
        """Say what happened."""
        return {
            "errors": "answers were errors (5xx)",
            "rejected": "requests were rejected (4xx)",
            "slow": f"answers took longer than {self.slo_ms:g} ms",
        }[event]


@dataclass(frozen=True, slots=True)
class RateState:
    """The proof of one gate in this step: `ratio` for "less than pass_ratio times stable", `bound` for a rate alone."""

    ratio: Proof = field(default_factory=Proof)
    bound: Proof = field(default_factory=Proof)


@dataclass(frozen=True, slots=True)
class RateGate:
    """What both kinds share: the event that is counted, the part of alpha that is spent on it, and whether it decides.

    seen_by: `pods` count what reached them, `callers` (the mesh) also what did not: resets, and its own 503.
    """

    event: Event
    share: float
    dry_run: bool = False
    seen_by: Literal["pods", "callers"] = "pods"

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of alpha is {self.share}: more than 0, at most 1")

    def log_alarm(self, alpha: float) -> float:
        """Return the log-evidence at which harm is proven."""
        return -math.log(alpha * self.share)

    def seen(self, tally: Tally, context: Context) -> str:
        """Say how often the event happened."""
        return f"{percent(tally.rate)} of {tally.requests:,} {context.words(self.event)}"


@dataclass(frozen=True, slots=True)
class RelativeGate(RateGate):
    """The canary's rate against stable's in the same windows, so that load and time of day cancel out.

    Fails when the canary is shown to be worse than `margin` times stable on most of its pods, by more than pods differ,
    and its rate is `floor` or more (four errors in a million requests are no reason to roll back); or worse by `gross`,
    a share of all requests by which pods of one version never differ, however few pods there are. Passes when it is
    shown to be better than `pass_ratio` times stable, or below `pass_rate`: where errors are rare or absent, a ratio
    cannot be estimated.
    """

    margin: float = 1.1
    floor: float = 0.001
    gross: float = 0.1
    pass_ratio: float = 2.0
    pass_rate: float = 0.005

    def __post_init__(self) -> None:
        """Refuse margins that contradict each other."""
        RateGate.__post_init__(self)
        if not 1 <= self.margin < self.pass_ratio:
            raise ValueError(f"margin {self.margin} and pass_ratio {self.pass_ratio}: 1 <= margin < pass_ratio")
        if not (0 <= self.floor < 1 and 0 < self.pass_rate < 1 and 0 < self.gross < 1):
            raise ValueError(
                f"floor {self.floor}, gross {self.gross} and pass_rate {self.pass_rate} are shares between 0 and 1"
            )
        if self.seen_by != "pods":
            raise ValueError(f"seen_by is {self.seen_by!r}: versions are compared pod by pod, so it is 'pods'")

    def take(self, state: RateState, stable: Tally, canary: Tally) -> RateState:
        """Bet on one window: whose the events are, given how many requests each version had."""
        harmless = relative_null(canary.requests, stable.requests, self.pass_ratio)
        return RateState(
            state.ratio.after(canary.hits, stable.hits, harmless),
            state.bound.after(canary.hits, canary.requests - canary.hits, self.pass_rate),
        )

    def judge(self, name: str, state: RateState, clusters: Clusters, context: Context) -> GateResult:
        """Say what the evidence shows."""
        mine, theirs = Tally.of_step(clusters.canary), Tally.of_step(clusters.stable)
        wanted, harm = -math.log(context.pass_alpha), self.log_alarm(context.alpha)
        seen = f"{self.seen(mine, context)}, {percent(theirs.rate)} of {theirs.requests:,} on stable"
        verdict, further = Verdict.INCONCLUSIVE, None
        if clusters.worse(context.weights, margin=self.margin, floor=self.floor, gross=self.gross, wanted=harm):
            verdict = Verdict.FAIL
            why = f"worse than {self.margin:g}x stable (false alarm: {percent(context.alpha * self.share)})"
        elif state.bound.evidence >= wanted:
            verdict, why = (
                Verdict.PASS,
                f"below {percent(self.pass_rate)} with {1 - context.pass_alpha:.0%} confidence",
            )
        elif apart := self._apart(clusters, context):
            why = apart
        elif state.ratio.evidence >= wanted:
            verdict = Verdict.PASS
            why = f"better than {self.pass_ratio:g}x stable with {1 - context.pass_alpha:.0%} confidence"
        else:
            further = self._further(state, theirs, mine, wanted)
            why = f"{needs(further)} to tell" if further else "more requests alone will not tell"
        return GateResult(
            name,
            verdict,
            f"{seen}: {why}",
            further,
            value=mine.rate,
            threshold=theirs.rate * self.margin,
            dry_run=self.dry_run,
        )

    def _apart(self, clusters: Clusters, context: Context) -> str:
        """Say that pods differ too much, where the canary would count as worse if they did not; else nothing."""
        if clusters.among_equals() < self.log_alarm(context.alpha):
            return ""
        compared = clusters.compared(context.weights, margin=self.margin)
        if compared.ratio <= self.margin:
            return ""
        counts = [int((cells[..., Column.ALL_REQUESTS] > 0).sum()) for cells in (clusters.canary, clusters.stable)]
        return (
            f"pods differ by about {float(compared.spread):.0%}, so {times(float(compared.ratio))} stable's rate does "
            f"not tell the versions apart ({counts[0]} and {counts[1]} pods; more pods would)"
        )

    def _further(self, state: RateState, stable: Tally, canary: Tally, wanted: float) -> int | None:
        rate, base = canary.rate, stable.hits / canary.requests
        bound = state.bound.further(hits=rate, misses=1 - rate, p0=self.pass_rate, wanted=wanted)
        null = relative_null(canary.requests, stable.requests, self.pass_ratio)
        ratio = state.ratio.further(hits=rate, misses=base, p0=null, wanted=wanted)
        return min((count for count in (bound, ratio) if count is not None), default=None)


@dataclass(frozen=True, slots=True)
class SloGate(RateGate):
    """The canary's rate against an objective, whatever stable does: it fires too when both versions degrade.

    Fails when the rate is shown to exceed `limit`. Passes when it is shown to be below, which takes 299 requests at
    least for a P99 (0.99**299 < 0.05) and 404 by this bet; or, since a service close to its objective would never
    pass, when the estimate is within the limit after `settled_requests`, where the alarm has had its chance.
    """

    limit: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a limit that is no share."""
        RateGate.__post_init__(self)
        if not 0 < self.limit < 1:
            raise ValueError(f"the limit is {self.limit}: a share between 0 and 1")

    @property
    def cold_limit(self) -> float:
        """The limit for pods that warm up."""
        return min(0.5, COLD_FACTOR * self.limit)

    def settled_requests(self, pass_alpha: float) -> int:
        """Return the sample at which the estimate itself is taken: ten times the rule of three."""
        return math.ceil(-10 * math.log(pass_alpha) / self.limit)

    def take(self, state: RateState, stable: Tally, canary: Tally) -> RateState:
        """Bet on one window of the canary alone."""
        return RateState(bound=state.bound.after(canary.hits, canary.requests - canary.hits, self.limit))

    def judge(
        self, name: str, state: RateState, clusters: Clusters, context: Context, cold: Clusters | None = None
    ) -> GateResult:
        """Say what the evidence shows about the canary alone; `cold`: its pods while they warmed up."""
        mine, harm = Tally.of_step(clusters.canary), self.log_alarm(context.alpha)
        wanted, settled = -math.log(context.pass_alpha), self.settled_requests(context.pass_alpha)
        verdict, further, seen = Verdict.INCONCLUSIVE, None, self.seen(mine, context)
        if clusters.above(self.limit, wanted=harm):
            verdict = Verdict.FAIL
            why = f"more than {percent(self.limit)} (false alarm: {percent(context.alpha * self.share)})"
        elif cold is not None and cold.above(self.cold_limit, wanted=harm):
            verdict, mine = Verdict.FAIL, Tally.of_step(cold.canary)
            seen, why = self.seen(mine, context), f"more than {percent(self.cold_limit)}, even for pods that warm up"
        elif not mine.requests:
            why = warming(context.warm_left_s)
        elif state.bound.evidence >= wanted:
            verdict, why = Verdict.PASS, f"below {percent(self.limit)} with {1 - context.pass_alpha:.0%} confidence"
        elif mine.rate <= self.limit and mine.requests >= settled:
            verdict, why = Verdict.PASS, f"within {percent(self.limit)} after {settled:,} requests"
        else:
            waits = [state.bound.further(hits=mine.rate, misses=1 - mine.rate, p0=self.limit, wanted=wanted)]
            if mine.rate <= self.limit:
                waits.append(settled - mine.requests)
            further = min((count for count in waits if count is not None), default=None)
            why = (
                f"{needs(further)} to be sure of {percent(self.limit)}"
                if further
                else "above the limit, but not yet with enough evidence"
            )
        return GateResult(
            name, verdict, f"{seen}: {why}", further, value=mine.rate, threshold=self.limit, dry_run=self.dry_run
        )


@dataclass(frozen=True, slots=True)
class RestartGate:
    """How often the canary's containers have restarted, out of memory or otherwise, against stable's.

    Fails at `limit` restarts in the rollout, when a canary pod restarts more often than one of stable's.
    """

    limit: int = 2
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that would fail every canary."""
        if self.limit < 1:
            raise ValueError(f"the limit is {self.limit} restarts: at least 1")

    def judge(self, name: str, canary: tuple[int, int, int], stable: tuple[int, int, int]) -> GateResult:
        """Say how often: restarts, kills for want of memory, and pods of each version."""
        restarts, killed, pods = canary
        theirs = stable[0] / max(1, stable[2])
        seen = f"{restarts} restarts ({killed} out of memory) on {pods} pods, {stable[0]} on {stable[2]} of stable"
        failed = restarts >= self.limit and restarts / max(1, pods) > theirs
        why = f"{self.limit} are the limit" if failed else f"fewer than {self.limit}, or no more than on stable"
        return GateResult(name, Verdict.FAIL if failed else Verdict.PASS, f"{seen}: {why}", dry_run=self.dry_run)


def percent(share: float) -> str:
    """Write a share of requests for a person."""
    return f"{100 * share:.3g} %"


def times(ratio: float) -> str:
    """Write a ratio for a person; beyond a hundred the exact figure says nothing."""
    return f"{ratio:.2g}x" if ratio < 100 else "more than 100x"


def needs(requests: int) -> str:
    """Say how many requests an undecided gate still wants."""
    return f"needs about {requests:,} more canary requests"


def warming(left_s: float) -> str:
    """Say that pods are measured and not judged yet."""
    return f"the canary's pods warm up for {max(0.0, left_s):.0f} s more: they are measured, and not judged yet"
