"""Drives a rollout before the eyes of everybody: a log, a page, a terminal, metrics, a webhook."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rollout.audience import Everybody, Log
from rollout.evidence.source import Source
from rollout.metrics import Metrics
from rollout.notify import Webhook
from rollout.page import Page
from rollout.promoter import Outcome
from rollout.screen import Screen
from rollout.session import Session
from rollout.state import Command


@dataclass(frozen=True, slots=True)
class Driven:
    """How it ended, and where to read about it."""

    outcome: Outcome
    log: Path
    page: Path


def drive(
    session: Session,
    source: Source,
    logs: Path,
    webhook: str,
    metrics_port: int = 0,
    *,
    command: Command | None = None,
) -> Driven:
    """Carry the rollout under way on until it is over, or a signal comes, and close the source.

    logs: the directory of the log and the page. webhook, metrics_port: none when empty or 0. Raises RolloutError.
    """
    metrics = Metrics()
    if metrics_port:
        metrics.serve(metrics_port)
    snapshot, found = session.active()
    log = Log(logs / f"{snapshot.deployment.name}-{found.id}.jsonl")
    page = Page(log.file)
    with signalled() as stop, Screen(Console(stderr=True)) as screen:
        everybody = Everybody([log, page, screen, metrics, *([Webhook(webhook)] if webhook else [])])
        try:
            outcome = session.drive(source, everybody, command=command, stop=stop)
        finally:
            source.close()
    return Driven(outcome, log.file, page.file)


@contextmanager
def signalled() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT instead of dying of them; gives a function that says whether one came."""
    came: list[int] = []
    before = {
        one: signal.signal(one, lambda number, frame: came.append(number)) for one in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
