"""A few requests to the canary alone, before any caller is sent to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Ended, Positive, Subject
from rollout.checks.exchange import NoAnswer, ask


class SmokeRequest(BaseModel):
    """One request and what is expected of its answer; with a body it is a POST.

    expect: JSON that the answer must contain: keys of objects, items of lists in order. max_ms: the latency allowed.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    path: Annotated[str, Field(pattern=r"^/")]
    body: Any = None
    status: int = 200
    expect: Any = None
    max_ms: Positive | None = None


class Smoke(Check):
    """Sends requests to the canary past the weights: through the route by header, or to its Service (`url`).

    All must be answered as expected. One that is not answered at all is tried again until the step's time is over.
    """

    kind: Literal["smoke"] = "smoke"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "smoke"
    timeout_s: Positive = 5.0
    every_s: Positive = 2.0
    url: str = "$canary_url"
    headers: Mapping[str, str] = Field(default_factory=dict)
    requests: Annotated[tuple[SmokeRequest, ...], Field(min_length=1)] = (SmokeRequest(path="/v2/health/ready"),)

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Send all requests once."""
        if not (url := subject.fill(self.url)):
            return self.result(Verdict.ERROR, "the canary's own address is not known; set `url`")
        headers = {**subject.canary_headers, **{name: subject.fill(value) for name, value in self.headers.items()}}
        slowest_ms = 0.0
        for request in self.requests:
            method = "GET" if request.body is None else "POST"
            try:
                reply = ask(
                    method,
                    url.rstrip("/") + request.path,
                    timeout_s=self.timeout_s,
                    headers=headers,
                    body=request.body,
                )
            except NoAnswer as error:
                return self.result(Verdict.INCONCLUSIVE, str(error))
            slowest_ms = max(slowest_ms, reply.took_ms)
            if wrong := problem(request, reply.status, reply.body, reply.took_ms):
                return self.result(Verdict.FAIL, f"{method} {request.path}: {wrong}")
        number = len(self.requests)
        return self.result(Verdict.PASS, f"{number} of {number} requests as expected, the slowest {slowest_ms:.1f} ms")

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        return ("an answer of the canary is not as expected", f"{len(self.requests)} requests are answered as expected")


def problem(request: SmokeRequest, status: int, body: bytes, took_ms: float) -> str:
    """Return what is wrong with an answer; empty: nothing."""
    if status != request.status:
        return f"status {status}, expected {request.status} ({body[:200].decode(errors='replace').strip()})"
    if request.max_ms is not None and took_ms > request.max_ms:
        return f"took {took_ms:.1f} ms, allowed: {request.max_ms:g} ms"
    if request.expect is None:
        return ""
    try:
        return lacking(request.expect, json.loads(body))
    except ValueError:
        return "the answer is not JSON"


def lacking(expected: Any, found: Any, where: str = "") -> str:
    """Return the first place at which JSON lacks what is expected; empty: it contains all of it."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key, value in expected.items():
            if key not in found:
                return f"{where or 'the answer'} has no {key!r}"
            if wrong := lacking(value, found[key], f"{where}.{key}".lstrip(".")):
                return wrong
        return ""
    if _is_list(expected) and _is_list(found) and len(expected) == len(found):
        wrongs = (lacking(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(expected, found)))  # noqa: B905
        return next((wrong for wrong in wrongs if wrong), "")
    return "" if expected == found else f"{where or 'the answer'} is {found!r}, expected {expected!r}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
