"""Asks the checks of a step on threads of their own, so that a slow answer never delays a look at the canary.

A promoter that takes over asks the checks of the present step again: a hook may be called twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Subject
from rollout.clock import Clock
from rollout.engine.state import RolloutState
from rollout.targets.target import Address, Snapshot

log = structlog.get_logger(__name__)
Start = Callable[[Callable[[], None]], None]
"""Runs a function, now or on a thread."""


def on_thread(work: Callable[[], None]) -> None:
    """Run a function on a daemon thread."""
    threading.Thread(target=work, daemon=True, name="check").start()


@dataclass(slots=True)
class _Inquiry:
    """One check in the present step. answers: of the last completed question; fresh: not taken yet.

    stopped: the step has ended. asked_s, answered_s: monotonic; asked_s is None while no question is open.
    """

    check: Check
    answers: tuple[GateResult, ...] = ()
    fresh: tuple[GateResult, ...] | None = None
    asked_s: float | None = None
    answered_s: float = 0.0
    stopped: bool = False
    failures: Counter[str] = field(default_factory=Counter)


class Checker:
    """The checks of one rollout. start: how a question is run; tests run it at once. prometheus: see Subject."""

    def __init__(self, clock: Clock, *, start: Start = on_thread, prometheus: str = "") -> None:
        self._clock = clock
        self._start = start
        self._prometheus = prometheus
        self._step: tuple[str, int] | None = None
        self._since_s = 0.0
        self._inquiries: dict[str, _Inquiry] = {}

    def look(self, state: RolloutState, snapshot: Snapshot, *, follows: bool) -> tuple[GateResult, ...]:
        """Ask what is due, without waiting, and return the latest results; none before the mesh has the step's routes.

        Closing checks are asked once `state.closing` is true.
        """
        here = (state.id, state.step)
        if here != self._step:
            self.close()
        if state.step < 0 or not state.analyse or not (follows or self._step == here):
            return ()
        if self._step != here:
            self._step, self._since_s = here, self._clock.wall_s()
        step = state.plan.steps[state.step]
        subject = subject_of(state, snapshot, self._since_s, prometheus=self._prometheus)
        results: list[GateResult] = []
        for check in (*step.checks, *(step.closing if state.closing else ())):
            inquiry = self._inquiries.setdefault(check.name, _Inquiry(check))
            self._advance(inquiry, subject)
            results += self._latest(inquiry)
        return tuple(results)

    def close(self) -> None:
        """Stop asking; a command that runs is ended."""
        for inquiry in self._inquiries.values():
            inquiry.stopped = True
        self._inquiries, self._step = {}, None

    def _advance(self, inquiry: _Inquiry, subject: Subject) -> None:
        """Take an answer that arrived, and ask again when it is time to."""
        self._take(inquiry)
        now_s = self._clock.monotonic_s()
        due = not inquiry.answers or (not _final(inquiry) and now_s - inquiry.answered_s >= inquiry.check.every_s)
        if inquiry.asked_s is None and due:
            inquiry.asked_s = now_s
            self._start(lambda: _ask(inquiry, subject))
            self._take(inquiry)

    def _take(self, inquiry: _Inquiry) -> None:
        if inquiry.fresh is None:
            return
        raw, inquiry.fresh, inquiry.asked_s = inquiry.fresh, None, None
        inquiry.answered_s = self._clock.monotonic_s()
        inquiry.answers = tuple(_decides(result, inquiry) for result in raw)

    def _latest(self, inquiry: _Inquiry) -> tuple[GateResult, ...]:
        check = inquiry.check
        open_s = 0.0 if inquiry.asked_s is None else self._clock.monotonic_s() - inquiry.asked_s
        if open_s > check.timeout_s + check.every_s:
            found = check.blank(Verdict.ERROR, f"no answer for {open_s:.0f} s")
        else:
            found = inquiry.answers or check.blank(Verdict.NO_DATA, f"asked {open_s:.0f} s ago, no answer yet")
        return tuple(replace(result, dry_run=check.dry_run) for result in found)


def _ask(inquiry: _Inquiry, subject: Subject) -> None:
    try:
        inquiry.fresh = inquiry.check.ask(subject, lambda: inquiry.stopped)
    except Exception as error:
        log.warning("check_failed", check=inquiry.check.name, detail=repr(error))
        inquiry.fresh = inquiry.check.blank(Verdict.ERROR, f"unexpected {type(error).__name__}: {error}")


def _decides(result: GateResult, inquiry: _Inquiry) -> GateResult:
    """Return a result as it decides: it fails after enough failures in a row, and may only ask a person."""
    check = inquiry.check
    if result.verdict is not Verdict.FAIL:
        inquiry.failures[result.name] = 0
        return result
    inquiry.failures[result.name] += 1
    number = inquiry.failures[result.name]
    if number >= check.failures:
        return result.by(check.on_fail)
    reason = f"{result.reason} (failed {number} of {check.failures} times in a row that are needed)"
    return replace(result, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _final(inquiry: _Inquiry) -> bool:
    """Whether the answers stand until the step ends."""
    decided = all(one.verdict in (Verdict.PASS, Verdict.FAIL) or one.asks for one in inquiry.answers)
    return decided and not inquiry.check.repeats


def subject_of(state: RolloutState, snapshot: Snapshot, since_s: float, *, prometheus: str = "") -> Subject:
    """Return what the checks of the present step ask about."""
    deployment = snapshot.deployment
    address = snapshot.addresses.get(state.canary, Address(""))
    return Subject(
        deployment=deployment.name,
        namespace=deployment.namespace,
        stable=state.stable,
        canary=state.canary,
        step=state.plan.steps[state.step].title,
        weight_percent=state.canary_percent,
        canary_url=address.url,
        canary_headers=dict(address.headers),
        since_s=since_s,
        prometheus=prometheus,
    )
