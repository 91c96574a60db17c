"""The one voice of a rollout: every decision goes to the audience, each change into the deployment's audit trail."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from rollout.audience import Audience
from rollout.clock import Clock
from rollout.counts import Counts
from rollout.decision import Decision
from rollout.errors import TargetError
from rollout.record import SAMPLE, Record
from rollout.state import Phase
from rollout.targets.target import Event, EventType, Target
from rollout.verdict import GateResult

log = structlog.get_logger(__name__)
ALARMING = (Phase.HELD, Phase.FAILED, Phase.ROLLING_BACK, Phase.ROLLED_BACK)


class Voice:
    """Says what was decided about one deployment; a reason that is said again is one more sample."""

    def __init__(self, target: Target, audience: Audience, clock: Clock) -> None:
        self._target = target
        self._audience = audience
        self._clock = clock
        self._said = ""

    def tell(
        self, deployment: str, decision: Decision, counts: Mapping[str, Counts], results: tuple[GateResult, ...] = ()
    ) -> None:
        """Tell a decision, the cumulative counts per predictor, and what the gates said."""
        changed = decision.reason != self._said
        self._said = decision.reason
        state = decision.state
        record = Record(
            at_s=self._clock.wall_s(),
            event=decision.reason if changed else SAMPLE,
            deployment=deployment,
            stable=state.stable,
            canary=state.canary,
            step=state.step if state.step >= 0 else None,
            weights_percent=state.weights,
            verdicts=results,
            counts=counts,
            decision=decision.action.value,
            message=decision.message,
            phase=state.phase.value,
        )
        self._audience.hear(record, state)
        if changed:
            kind = EventType.WARNING if state.phase in ALARMING else EventType.NORMAL
            self.publish(kind, decision.reason, decision.message)

    def publish(self, kind: EventType, reason: str, message: str) -> None:
        """Add an event to the audit trail alone."""
        try:
            self._target.publish(Event(kind, reason, message))
        except TargetError as error:  # the audit trail must never decide how a rollout ends
            log.warning("event_lost", reason=reason, detail=str(error))
