"""Logs of rollouts as the promoter writes them, with traffic drawn at random and judged by the real gates."""

from collections.abc import Mapping

import numpy as np

from rollout.analysis.counts import SCORE_BINS, Arm, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GateState, blank, update
from rollout.analysis.verdict import GateResult, Verdict, combine
from rollout.engine.record import Record

START_S = 1_760_000_000.0
LATENCY = np.array([30, 400, 420, 110, 25, 9, 3, 1.2, 0.5, 0.2, 0.05, 0.01])
CENTERS = (np.arange(SCORE_BINS) + 0.5) / SCORE_BINS


class Story:
    """Writes a log window by window."""

    def __init__(self, seed: int = 5, interval_s: float = 10.0, requests: int = 1500) -> None:
        self._rng, self.interval_s, self.requests = np.random.default_rng(seed), interval_s, requests
        self.records: list[Record] = []
        self._at_s, self._state, self._step = START_S, GateState(), -1
        self._weight = 0
        self._counts = {"v7": Counts(), "v8": Counts()}
        self.say("Starting", "PENDING", "v8 is added at 0 % and must become ready", phase="Pending")

    def say(
        self, event: str, decision: str, message: str, *, phase: str, verdicts: tuple[GateResult, ...] = ()
    ) -> None:
        self.records.append(
            Record(
                self._at_s, event, "churn", "v7", "v8", self._step if self._step >= 0 else None,
                {"v7": 100 - self._weight, "v8": self._weight} if self._weight else {"v7": 100},
                verdicts, dict(self._counts), decision.lower(), message, phase,
            )
        )  # fmt: skip

    def step(self, weight: int) -> None:
        self._step, self._weight, self._state = self._step + 1, weight, self._state.next_step()
        event = "Baking" if weight == 100 else "WeightsRaised"
        phase = "Baking" if weight == 100 else "Progressing"
        self.say(event, "ADVANCE", f"{weight} % to v8, {100 - weight} % to v7", phase=phase)

    def outage(self, windows: int) -> None:
        for index in range(windows):
            self._at_s += self.interval_s
            reason = "http://prometheus:9090/api/v1/query answered 503 (upstream down)"
            self.say(
                "EvidenceOutage" if index == 0 else "Sample", "WAIT", f"no evidence: {reason}", phase="Progressing",
                verdicts=blank(GateConfig(), Verdict.ERROR, reason),
            )  # fmt: skip

    def windows(self, windows: int, canary: Mapping[str, float], *, until_fail: bool = True) -> Verdict:
        verdict = Verdict.NO_DATA
        for index in range(windows):
            self._at_s += self.interval_s
            mine = int(self._rng.binomial(self.requests, self._weight / 100))
            arms = {"v7": self._window(self.requests - mine, {}), "v8": self._window(mine, canary)}
            self._counts = {name: self._counts[name] + window for name, window in arms.items()}
            self._state, results = update(
                GateConfig(), self._state, Arm.of(arms["v7"]), Arm.of(arms["v8"]), compare=self._weight < 100
            )
            verdict = combine(results)
            if verdict is Verdict.FAIL and until_fail:
                failed = "; ".join(f"{each.name}: {each.reason}" for each in results if each.verdict is Verdict.FAIL)
                self.say("GateFailed", "ROLL_BACK", failed, phase="RollingBack", verdicts=results)
                return verdict
            event = "Analysing" if index == 0 else "Sample"
            self.say(event, "WAIT", "the gates are asked after each window", phase="Progressing", verdicts=results)
        return verdict

    def _window(self, requests: int, rates: Mapping[str, float]) -> Counts:
        latency = LATENCY / LATENCY.sum()
        added = rates.get("slow", 0.0)
        latency = latency * (1 - added)
        latency[8] += added
        errors = int(self._rng.binomial(requests, rates.get("errors", 0.0008)))
        rejected = int(self._rng.binomial(requests, 0.012))
        middle = rates.get("middle", 0.25)
        shares = np.exp(-(((CENTERS - middle) / 0.22) ** 2)) + 0.02
        if rates.get("humps"):
            shares = np.exp(-(((CENTERS - 0.08) / 0.1) ** 2)) + 0.7 * np.exp(-(((CENTERS - 0.72) / 0.12) ** 2)) + 0.02
        scored = max(0, requests - errors - rejected)
        return Counts.of_latency(
            self._rng.multinomial(requests, latency).tolist(), errors=errors, rejected=rejected,
            scores=self._rng.multinomial(scored, shares / shares.sum()).tolist(),
        )  # fmt: skip


def promoted() -> list[Record]:
    story = Story()
    for weight in (10, 30, 50, 100):
        story.step(weight)
        if weight == 30:
            story.outage(3)
        story.windows(12 if weight < 100 else 18, {"middle": 0.27})
    story.say("Baked", "FINISH", "v8 has stayed at 100 %; v7 is deleted now", phase="Finishing")
    story.say("Promoted", "COMPLETE", "v8 serves alone, v7 is gone", phase="Succeeded")
    return story.records


def rolled_back(**canary: float) -> list[Record]:
    story = Story(seed=6)
    story.step(10)
    story.windows(12, {})
    story.step(30)
    story.windows(4, {})
    story.windows(40, canary)
    cause = story.records[-1].message
    story._weight = 0
    story.say(
        "RolledBack", "ROLL_BACK", f"{cause}. All requests go to v7 again, verified in the mesh (stage: weights)",
        phase="RolledBack",
    )  # fmt: skip
    return story.records
