"""The one announcer of a rollout: every decision goes to the subscriber, each change into the deployment's audit trail.

Who hears of a rollout: an subscriber, such as the log file, or several at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from rollout.analysis.counts import Counts
from rollout.analysis.verdict import GateResult
from rollout.clock import Clock
from rollout.engine.decision import Decision
from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import Phase, RolloutState
from rollout.errors import TargetError
from rollout.targets.target import Event, EventType, Target

log = structlog.get_logger(__name__)
ALARMING = (Phase.HELD, Phase.FAILED, Phase.ROLLING_BACK, Phase.ROLLED_BACK)


class Announcer:
    """Says what was decided about one deployment; a reason that is said again is one more sample."""

    def __init__(self, target: Target, subscriber: Subscriber, clock: Clock) -> None:
        self._target = target
        self._subscriber = subscriber
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
        self._subscriber.notify(record, state)
        if changed:
            kind = EventType.WARNING if state.phase in ALARMING else EventType.NORMAL
            self.publish(kind, decision.reason, decision.message)

    def publish(self, kind: EventType, reason: str, message: str) -> None:
        """Add an event to the audit trail alone."""
        try:
            self._target.publish(Event(kind, reason, message))
        except TargetError as error:  # the audit trail must never decide how a rollout ends
            log.warning("event_lost", reason=reason, detail=str(error))


class Subscriber(Protocol):
    """Whoever wants to know what happens: log, report, terminal, webhook, metrics."""

    def notify(self, record: Record, state: RolloutState) -> None:
        """Take in one record. Must not raise and must not block for long."""


class Log:
    """An subscriber that appends one line of JSON for each record to a file."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():  # a promoter that was killed may have left half a line
            content = file.read_bytes()
            os.truncate(file, content.rfind(b"\n") + 1)
        self.file = file

    def notify(self, record: Record, state: RolloutState) -> None:
        """Append, in one write: a crash loses the last line at most."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(record.to_line() + "\n")


class Broadcast:
    """Passes each record on to every subscriber, in their order."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = subscribers

    def notify(self, record: Record, state: RolloutState) -> None:
        """Take in one record."""
        for subscriber in self._subscribers:
            subscriber.notify(record, state)
