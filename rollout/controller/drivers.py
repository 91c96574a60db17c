"""One thread for each rollout under way; it drives until the rollout is over, through outages and other promoters."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from rollout.controller.overview import Key, Overview
from rollout.engine.announcer import Subscriber
from rollout.engine.session import Session
from rollout.errors import LeaseHeld, NotFound, RolloutError, StateError
from rollout.evidence.source import Source
from rollout.plan.plan import Plan

log = structlog.get_logger(__name__)
RETRY_S = 5.0


class Drivers:
    """Keeps one driver for each deployment. A driver that fails is started again, and no error ends another driver.

    open_session, open_source, subscriber_of: for (namespace, name), the source also for the plan. retry_s: the pause
    after an error, and while another promoter drives.
    """

    def __init__(
        self,
        open_session: Callable[[str, str], Session],
        open_source: Callable[[str, str, Plan], Source],
        subscriber_of: Callable[[str, str], Subscriber],
        overview: Overview,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._open_session = open_session
        self._open_source = open_source
        self._subscriber_of = subscriber_of
        self._overview = overview
        self._retry_s = retry_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[Key, threading.Thread] = {}
        self._requests: dict[Key, int] = {}

    def ensure(self, namespace: str, name: str) -> None:
        """Drive the rollout of a deployment. If a driver is at work, it looks once more before it ends."""
        key = (namespace, name)
        with self._lock:
            self._requests[key] = self._requests.get(key, 0) + 1
            if key in self._threads or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._drive, args=key, name=f"driver {namespace}/{name}", daemon=True)
            self._threads[key] = thread
            thread.start()

    @property
    def driven(self) -> list[Key]:
        """The deployments that have a driver now."""
        with self._lock:
            return sorted(self._threads)

    def close(self, timeout_s: float = 20.0) -> None:
        """Leave all rollouts as they are: the next controller, or `resume`, goes on."""
        self._stopping.set()
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(timeout_s)

    def _drive(self, namespace: str, name: str) -> None:
        key = (namespace, name)
        while True:
            with self._lock:
                request = self._requests[key]
            over = self._drive_once(namespace, name)
            with self._lock:
                # A rollout that began while this driver was about to end was announced to it, and to nobody else.
                if self._stopping.is_set() or (over and request == self._requests[key]):
                    del self._threads[key]
                    return
            if not over:
                self._stopping.wait(self._retry_s)

    def _drive_once(self, namespace: str, name: str) -> bool:
        """Drive until the rollout is over or there is none (True), until an error, or until the controller ends."""
        bound = log.bind(namespace=namespace, deployment=name)
        try:
            session = self._open_session(namespace, name)
            _, found = session.active()
            source = self._open_source(namespace, name, found.plan)
            try:
                subscriber = self._subscriber_of(namespace, name)
                outcome = session.drive(source, subscriber, stop=self._stopping.is_set, forever=True)
            finally:
                source.close()
        except (StateError, NotFound) as error:
            bound.info("nothing_to_drive", detail=str(error))
            return True
        except LeaseHeld as error:
            bound.info("another_promoter_drives", detail=str(error))
            self._overview.driven(namespace, name, error.holder)
        except RolloutError as error:
            bound.warning("driver_failed", detail=str(error))
            self._overview.troubled(namespace, name, str(error))
        except Exception as error:  # whatever it is, the rollout must not be left alone
            bound.error("driver_failed", detail=repr(error), exc_info=error)
            self._overview.troubled(namespace, name, repr(error))
        else:
            return outcome.state.phase.over
        return False
