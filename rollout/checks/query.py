"""A gate of one's own: the value of a PromQL expression against a limit."""

from __future__ import annotations

import json
import math
import os
from typing import Annotated, Any, Final, Literal, Self

import httpx
from pydantic import Field, model_validator

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Ended, Positive, Subject
from rollout.errors import EvidenceError
from rollout.evidence.http import exchange
from rollout.evidence.prometheus import AUTHORIZATION_ENV

MOST_SERIES: Final = 3


class Query(Check):
    """Asks a Prometheus for one number at every look, and compares it with `at_most` or `at_least`.

    The expression may contain $canary, $stable and the other values of the rollout, and must give one number: a scalar
    or one series. No series and NaN are no data. prometheus: its address; empty: that of the evidence. The credential
    of the evidence is sent to its own address only, because the plan is in an annotation that others may edit.
    """

    repeats = True

    kind: Literal["query"] = "query"
    query: Annotated[str, Field(min_length=1)]
    at_most: float | None = None
    at_least: float | None = None
    prometheus: str = ""
    timeout_s: Positive = 5.0
    failures: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("needs one limit: at_most or at_least")
        return self

    @property
    def limit(self) -> float:
        """The limit, whichever of the two it is."""
        return next(one for one in (self.at_most, self.at_least) if one is not None)

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Ask once."""
        if not self.prometheus:
            return self.result(Verdict.ERROR, "the address of Prometheus is not known: set `prometheus`")
        base = self.prometheus.rstrip("/")
        is_ours = base == subject.prometheus.rstrip("/")
        authorization = os.environ.get(AUTHORIZATION_ENV) if is_ours else None
        headers = {"Authorization": authorization} if authorization else None
        url, form = f"{base}/api/v1/query", {"query": subject.fill(self.query)}
        try:
            with httpx.Client() as client:
                body = exchange(client, "POST", url, timeout_s=self.timeout_s, form=form, headers=headers)
            value = number(json.loads(body))
        except (EvidenceError, ValueError) as error:
            return self.result(Verdict.ERROR, str(error))
        return (judge(self, value),)

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        if self.at_most is not None:
            return f"{self.query} is above {self.at_most:g}", f"it is at most {self.at_most:g}"
        return f"{self.query} is below {self.at_least:g}", f"it is at least {self.at_least:g}"


def judge(query: Query, value: float | None) -> GateResult:
    """Compare a value (None: no series) with the limit."""
    limit = query.limit
    if value is None or math.isnan(value):
        found = "no series" if value is None else "NaN"
        return GateResult(query.name, Verdict.NO_DATA, f"the query gives {found}: {query.query}", threshold=limit)
    kept = value <= limit if query.at_most is not None else value >= limit
    words = "at most" if query.at_most is not None else "at least"
    reason = f"the query gives {value:.4g}, allowed: {words} {limit:g}"
    finite = value if math.isfinite(value) else None
    return GateResult(query.name, Verdict.PASS if kept else Verdict.FAIL, reason, value=finite, threshold=limit)


def number(answer: Any) -> float | None:
    """Return the one number of Prometheus' answer, None without a series. Raises ValueError."""
    try:
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            return float(result[1])
        if kind != "vector":
            raise ValueError(f"the query gives a {kind}; a scalar or one series is wanted")
        if len(result) > 1:
            named = "; ".join(json.dumps(one["metric"]) for one in result[:MOST_SERIES])
            raise ValueError(f"the query gives {len(result)} series ({named}); wrap it in sum(), max() or scalar()")
        return float(result[0]["value"][1]) if result else None
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"Prometheus' answer cannot be read: {error!r}") from error
