"""A hook over HTTP: a service outside decides whether a step may go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Ended, Subject
from rollout.checks.exchange import NoAnswer, Reply, ask

_VERDICTS: Final = {"pass": Verdict.PASS, "fail": Verdict.FAIL, "hold": Verdict.INCONCLUSIVE}
LATER: Final = (408, 409, 423, 425, 429)
MOST_WORDS: Final = 200


class HttpHook(Check):
    """Sends a request that says where the rollout stands (JSON), and takes the answer as a verdict.

    2xx passes, unless the answer is JSON with a `verdict`: pass, fail or hold, and a `reason`. 408, 409, 423, 425, 429,
    5xx and no answer hold: the hook is asked again every `every_s`. Any other status fails.
    authorization_env: the environment variable with the Authorization header, ROLLOUT_HOOK_...; it is read for each
    request, and never written to the rollout's record. No other variable may be named, since the plan is in an
    annotation that others may edit.
    """

    kind: Literal["http"] = "http"
    url: Annotated[str, Field(pattern=r"^https?://")]
    method: Literal["GET", "POST", "PUT"] = "POST"
    headers: Mapping[str, str] = Field(default_factory=dict)
    authorization_env: Annotated[str, Field(pattern=r"^(ROLLOUT_HOOK_[A-Z0-9_]+)?$")] = ""

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Ask once."""
        headers = {name: subject.fill(value) for name, value in self.headers.items()}
        if self.authorization_env:
            if not (secret := os.environ.get(self.authorization_env)):
                return self.result(Verdict.ERROR, f"the environment variable {self.authorization_env} is not set")
            headers["Authorization"] = secret
        body: Any = None if self.method == "GET" else {"hook": self.name, **subject.words()}
        try:
            reply = ask(self.method, subject.fill(self.url), timeout_s=self.timeout_s, headers=headers, body=body)
        except NoAnswer as error:
            return self.result(Verdict.INCONCLUSIVE, str(error))
        return self.result(*_verdict(reply))

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        return (f"{self.url} answers with fail or 4xx", f"{self.url} answers with pass or 2xx")


def _verdict(reply: Reply) -> tuple[Verdict, str]:
    words = reply.body[:MOST_WORDS].decode(errors="replace").strip()
    if 200 <= reply.status < 300:
        try:
            said = json.loads(reply.body)
        except ValueError:
            said = None
        if not isinstance(said, dict) or "verdict" not in said:
            return Verdict.PASS, f"answered {reply.status}"
        verdict = _VERDICTS.get(str(said["verdict"]))
        if verdict is None:
            return Verdict.ERROR, f"answered with verdict {said['verdict']!r}; allowed: {', '.join(_VERDICTS)}"
        return verdict, str(said.get("reason", f"answered {said['verdict']}"))[:MOST_WORDS]
    later = reply.status in LATER or reply.status >= 500
    return Verdict.INCONCLUSIVE if later else Verdict.FAIL, f"answered {reply.status}: {words or 'no text'}"
