"""The same requests answered by two versions: how often the answers differ by more than is allowed.

A request that both versions have answered is a pair, so the callers, their data and the time of day are the same on
both sides, and nothing has to be compared across populations. Each measure is one share of the pairs, judged by bets
that stay valid however often somebody looks (sequential.py); only the totals matter, so there is no state to keep.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from rollout.analysis.sequential import Proof
from rollout.analysis.verdict import GateResult, OnDoubt, Verdict

SCORES: Final = "paired_scores"
LATENCY: Final = "paired_latency"
MISSING: Final = "paired_requests"


@dataclass(frozen=True, slots=True)
class Answer:
    """One version's answer to one request. scores: one number, or one for each class; empty or None: not recorded."""

    scores: tuple[float, ...] = ()
    latency_ms: float | None = None

    def moved(self, other: Answer) -> float | None:
        """Return how far the other answer's score is from this one's: the greatest distance where there are several."""
        if not self.scores or len(self.scores) != len(other.scores):
            return None
        moves = [theirs - mine for mine, theirs in zip(self.scores, other.scores, strict=True)]
        return moves[0] if len(moves) == 1 else max(map(abs, moves))


Share = Annotated[float, Field(gt=0, lt=1)]


class Limits(BaseModel):
    """What is allowed. Failures of scores ask a person unless `on_scores` is `rollback`: a new model should differ.

    score_difference, differing: at most this share of the pairs may have scores that are further apart. slower_ratio,
    slower: at most this share may take more than slower_ratio times as long and slower_ms more. missing: at most this
    share of stable's requests may lack the canary's answer; beyond it the rest of the pairs cannot be trusted.
    alpha: the chance that pairs within a limit are ever judged to be above it; pass_alpha: the reverse.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    min_pairs: Annotated[int, Field(ge=1)] = 300
    score_difference: Annotated[float, Field(ge=0)] = 0.1
    differing: Share = 0.05
    slower_ratio: Annotated[float, Field(ge=1)] = 2.0
    slower_ms: Annotated[float, Field(ge=0)] = 5.0
    slower: Share = 0.25
    missing: Share = 0.05
    alpha: Share = 0.025
    pass_alpha: Share = 0.05
    on_scores: OnDoubt = OnDoubt.HOLD


@dataclass(frozen=True, slots=True)
class Pairs:
    """The answers of both versions by request id. late: requests too young to be missed yet."""

    stable: Mapping[Hashable, Answer]
    canary: Mapping[Hashable, Answer]
    late: frozenset[Hashable] = frozenset()

    def both(self) -> list[tuple[Answer, Answer]]:
        """Return (stable's, canary's) answer of each request that both have answered."""
        return [(answer, self.canary[one]) for one, answer in self.stable.items() if one in self.canary]

    def unpaired(self) -> int:
        """Return how many requests only stable has answered, except the young ones."""
        return sum(one not in self.canary and one not in self.late for one in self.stable)


def judge(pairs: Pairs, limits: Limits) -> tuple[GateResult, ...]:
    """Return the verdicts on scores and latencies, and on whether the pairs are complete."""
    both = pairs.both()
    moves = [moved for one, other in both if (moved := one.moved(other)) is not None]
    times = [(a.latency_ms, b.latency_ms) for a, b in both if a.latency_ms is not None and b.latency_ms is not None]
    results = [_missing(pairs, len(both), limits), _scores(moves, limits).by(limits.on_scores)]
    return (*results, _latency(times, limits)) if times else tuple(results)


def _missing(pairs: Pairs, paired: int, limits: Limits) -> GateResult:
    unpaired = pairs.unpaired()
    total = paired + unpaired
    share = unpaired / total if total else 0.0
    verdict = Verdict.NO_DATA if not total else Verdict.PASS if share <= limits.missing else Verdict.INCONCLUSIVE
    reason = f"the canary's answer is missing for {unpaired:,} of {total:,} requests ({100 * share:.3g} %)"
    if verdict is Verdict.INCONCLUSIVE:
        reason += f", allowed: {100 * limits.missing:g} %; is it sampled otherwise, overloaded, or not mirrored?"
    return GateResult(MISSING, verdict, reason, value=share, threshold=limits.missing)


def _scores(differences: Sequence[float], limits: Limits) -> GateResult:
    hits = sum(abs(one) > limits.score_difference for one in differences)
    said = f"differ by more than {limits.score_difference:g}"
    if differences:
        said += f" (mean difference {fmean(differences):+.3f}, greatest {max(map(abs, differences)):.3f})"
    return _share(SCORES, hits, len(differences), said, limits.differing, limits)


def _latency(times: Sequence[tuple[float, float]], limits: Limits) -> GateResult:
    hits = sum(_slower(stable, canary, limits) for stable, canary in times)
    middle = f"median {median(canary for _, canary in times):.3g} ms, stable's {median(one for one, _ in times):.3g} ms"
    said = f"took more than {limits.slower_ratio:g} times as long and {limits.slower_ms:g} ms more ({middle})"
    return _share(LATENCY, hits, len(times), said, limits.slower, limits)


def _slower(stable: float, canary: float, limits: Limits) -> bool:
    return canary > limits.slower_ratio * stable and canary - stable > limits.slower_ms


def _share(name: str, hits: int, pairs: int, said: str, limit: float, limits: Limits) -> GateResult:
    """Judge a share of the pairs: fail when it is shown to be above the limit, pass when shown to be below."""
    if not pairs:
        return GateResult(name, Verdict.NO_DATA, "no request has been answered by both versions yet")
    misses, share = pairs - hits, hits / pairs
    harm = Proof().after(misses, hits, 1 - limit).evidence  # the mirror image: "misses are less frequent"
    proof = Proof().after(hits, misses, limit)
    reason = f"{hits:,} of {pairs:,} pairs ({100 * share:.3g} %) {said}; allowed: {100 * limit:g} %"
    verdict, further = Verdict.INCONCLUSIVE, None
    if harm >= -math.log(limits.alpha):
        verdict = Verdict.FAIL
    elif pairs < limits.min_pairs:
        further = limits.min_pairs - pairs
    elif proof.evidence >= -math.log(limits.pass_alpha):
        verdict = Verdict.PASS
    else:
        further = proof.further(hits=share, misses=1 - share, p0=limit, wanted=-math.log(limits.pass_alpha))
    if further:
        reason += f"; needs about {further:,} more pairs"
    return GateResult(name, verdict, reason, further, value=share, threshold=limit)


def pairs_of(
    stable: Iterable[tuple[Hashable, Answer]],
    canary: Iterable[tuple[Hashable, Answer]],
    late: Iterable[Hashable] = (),
) -> Pairs:
    """Return pairs by request id. An id that a version has answered twice is left out: it names no single request."""
    return Pairs(_once(stable), _once(canary), frozenset(late))


def _once(answers: Iterable[tuple[Hashable, Answer]]) -> dict[Hashable, Answer]:
    found: dict[Hashable, Answer] = {}
    twice: set[Hashable] = set()
    for request, answer in answers:
        if request in found:
            twice.add(request)
        found[request] = answer
    return {request: answer for request, answer in found.items() if request not in twice}
