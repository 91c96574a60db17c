"""One thread for each rollout under way; it drives until the rollout is over, through outages and other promoters."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from rollout.engine.announcer import Subscriber
from rollout.engine.session import Session
from rollout.errors import LeaseHeld, NotFound, RolloutError, StateError
from rollout.evidence.source import Source

log = structlog.get_logger(__name__)
RETRY_S = 5.0
Key = tuple[str, str]
"""Namespace and name of a SeldonDeployment."""


class Drivers:
    """Keeps one driver for each deployment. A driver that fails is started again; nothing that it raises ends another.

    open_session, open_source: for (namespace, name). retry_s: the pause after an error, and while another promoter
    drives.
    """

    def __init__(
        self,
        open_session: Callable[[str, str], Session],
        open_source: Callable[[str, str], Source],
        subscriber: Subscriber,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._open_session = open_session
        self._open_source = open_source
        self._subscriber = subscriber
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[Key, threading.Thread] = {}

    def ensure(self, namespace: str, name: str) -> None:
        """Drive the rollout of a deployment, unless that is done already."""
        key = (namespace, name)
        with self._lock:
            if self._stopping.is_set() or ((thread := self._threads.get(key)) and thread.is_alive()):
                return
            self._threads[key] = threading.Thread(
                target=self._drive, args=key, name=f"driver {namespace}/{name}", daemon=True
            )
            self._threads[key].start()

    @property
    def driven(self) -> list[Key]:
        """The deployments that are driven now."""
        with self._lock:
            return sorted(key for key, thread in self._threads.items() if thread.is_alive())

    def close(self, timeout_s: float = 20.0) -> None:
        """Leave all rollouts as they are: the next controller, or `resume`, goes on."""
        self._stopping.set()
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(timeout_s)

    def _drive(self, namespace: str, name: str) -> None:
        while not self._stopping.is_set():
            try:
                if self._drive_once(namespace, name):
                    return
            except (StateError, NotFound) as error:
                log.info("nothing_to_drive", namespace=namespace, deployment=name, detail=str(error))
                return
            except LeaseHeld as error:
                log.info("another_promoter_drives", namespace=namespace, deployment=name, detail=str(error))
            except RolloutError as error:
                log.warning("driver_failed", namespace=namespace, deployment=name, detail=str(error))
            except Exception as error:  # whatever it is, the rollout must not be left alone
                log.error("driver_failed", namespace=namespace, deployment=name, detail=repr(error), exc_info=error)
            self._stopping.wait(self._retry_s)

    def _drive_once(self, namespace: str, name: str) -> bool:
        """Drive until the rollout is over (True), or the controller ends."""
        session = self._open_session(namespace, name)
        session.active()
        source = self._open_source(namespace, name)
        try:
            outcome = session.drive(source, self._subscriber, stop=self._stopping.is_set, forever=True)
        finally:
            source.close()
        return outcome.state.phase.over
