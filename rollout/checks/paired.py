"""The verdict on a shadow: the same requests, as stable and the canary have answered them, by prediction records."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rollout.analysis.paired import MISSING, SCORES, Limits, judge, pairs_of
from rollout.analysis.verdict import GateResult, OnDoubt, Verdict
from rollout.checks.check import Check, Ended, Positive, Subject
from rollout.errors import EvidenceError
from rollout.evidence.records import read_records


class Paired(Check):
    """Joins the records of both versions by request id, from the moment that requests are mirrored.

    records: the directory of the records, which both versions write and the promoter can read ($deployment and the
    other values are replaced). lag_s: how old a request must be to be missed in the canary's records.
    on_fail: for latencies; scores that differ ask a person unless `limits.on_scores` is `rollback`.
    """

    repeats: ClassVar[bool] = True

    kind: Literal["paired"] = "paired"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "paired"
    records: Annotated[str, Field(min_length=1)]
    lag_s: Positive = 30.0
    limits: Limits = Limits()

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Read all records of the step and judge them."""
        try:
            found = read_records(subject.fill(self.records), (subject.stable, subject.canary), since_s=subject.since_s)
        except EvidenceError as error:
            return self.blank(Verdict.ERROR, str(error))
        newest_s = max((one.at_s for one in found), default=0.0)
        by_predictor: dict[str, list[Any]] = {subject.stable: [], subject.canary: []}
        for one in found:
            by_predictor[one.predictor].append((one.request, one.answer))
        late = (one.request for one in found if one.at_s > newest_s - self.lag_s)
        pairs = pairs_of(by_predictor[subject.stable], by_predictor[subject.canary], late)
        return judge(pairs, self.limits)

    @property
    def results(self) -> tuple[str, ...]:
        """The names of its results; that of latencies is left out where records have none."""
        return (MISSING, SCORES)

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        limits = self.limits
        scores = f"{100 * limits.differing:g} % of the pairs have scores {limits.score_difference:g} apart"
        asks = " (a person decides)" if limits.on_scores is OnDoubt.HOLD else ""
        slow = f"{100 * limits.slower:g} % take {limits.slower_ratio:g} times as long"
        return f"more than {scores}{asks}, or {slow}", "both are shown to be less"
