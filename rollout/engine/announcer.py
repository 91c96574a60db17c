"""Sends the decisions of a rollout to the subscribers, and its changes to the audit trail of the deployment.

A subscriber cannot change how a rollout ends: its exceptions are logged, and the next subscriber is still notified.
"""

from __future__ import annotations

import os
import queue
import threading
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
    """Announces the decisions about one deployment. A repeated reason is logged as one more sample."""

    def __init__(self, target: Target, subscriber: Subscriber, clock: Clock) -> None:
        self._target = target
        self._subscriber = Broadcast([subscriber])
        self._clock = clock
        self._last_reason = ""

    def announce(
        self,
        deployment: str,
        decision: Decision,
        counts: Mapping[str, Counts],
        results: tuple[GateResult, ...] = (),
        *,
        at_s: float | None = None,
        mesh_percent: Mapping[str, int] | None = None,
    ) -> None:
        """Announce a decision, the cumulative counts per predictor, and the gates' results.

        at_s: default: now. mesh_percent: the weights in the mesh at the time of the decision.
        """
        changed = decision.reason != self._last_reason
        self._last_reason = decision.reason
        state = decision.state
        record = Record(
            at_s=self._clock.wall_s() if at_s is None else at_s,
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
            mesh_percent=dict(mesh_percent or {}),
            title=state.plan.steps[state.step].title if state.step >= 0 else "",
            scale=state.plan.gates.scale,
        )
        self._subscriber.notify(record, state)
        if changed:
            kind = EventType.WARNING if state.phase in ALARMING else EventType.NORMAL
            self.publish(kind, decision.reason, decision.message)

    def publish(self, kind: EventType, reason: str, message: str) -> None:
        """Add an event to the audit trail only."""
        try:
            self._target.publish(Event(kind, reason, message))
        except (TargetError, OSError) as error:  # the audit trail must not change how a rollout ends
            log.warning("event_lost", reason=reason, detail=str(error))


class Subscriber(Protocol):
    """A receiver of events: log, report, terminal, webhook or metrics."""

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record. Must not block for long; wrap a slow subscriber in Background."""


class Log:
    """A subscriber that appends one line of JSON for each record to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():  # a promoter that was killed may have left an incomplete line
                content = file.read_bytes()
                os.truncate(file, content.rfind(b"\n") + 1)
        except OSError as error:  # a full disk must not prevent a rollback
            log.warning("log_not_opened", file=str(file), detail=str(error))

    def notify(self, record: Record, state: RolloutState) -> None:
        """Append the record in one write: a crash loses at most the last line."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(record.to_line() + "\n")


class Broadcast:
    """Passes each record to every subscriber, in order. An exception is logged and does not affect the others."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = subscribers

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record."""
        for subscriber in self._subscribers:
            try:
                subscriber.notify(record, state)
            except Exception as error:
                log.warning("not_notified", subscriber=type(subscriber).__name__, detail=repr(error))


class Background:
    """Notifies a slow subscriber from its own thread. If the queue is full, the record is dropped and logged."""

    def __init__(self, subscriber: Subscriber, *, most: int = 100) -> None:
        self._subscriber = Broadcast([subscriber])
        self._queue: queue.Queue[tuple[Record, RolloutState] | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._work, daemon=True, name="notifier")
        self._thread.start()

    def notify(self, record: Record, state: RolloutState) -> None:
        """Queue one record without waiting."""
        try:
            self._queue.put_nowait((record, state))
        except queue.Full:
            log.warning("not_notified", detail=f"{self._queue.maxsize} records are waiting already")

    def close(self, timeout_s: float = 10.0) -> None:
        """Wait a limited time until the queued records are passed on."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._subscriber.notify(*item)
