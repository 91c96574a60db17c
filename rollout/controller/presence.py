"""Says in each watched namespace that a controller is alive, so that `run` there follows it instead of driving."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from rollout.clock import Clock
from rollout.errors import NotFound, RolloutError
from rollout.targets.target import LeaseRecord, LeaseStore

log = structlog.get_logger(__name__)


class Presence:
    """Renews one lease for each namespace, in a thread. Nothing is locked by it: two controllers write in turns.

    open_store: the lease of a namespace. identity: the name that others show. duration_s: how long a renewal counts.
    """

    def __init__(
        self, open_store: Callable[[str], LeaseStore], clock: Clock, identity: str, *, duration_s: int = 15
    ) -> None:
        self._open_store = open_store
        self._clock = clock
        self._identity = identity
        self._duration_s = duration_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stores: dict[str, LeaseStore] = {}
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="presence", daemon=True)

    def announce(self, namespace: str) -> None:
        """Begin to renew the lease of a namespace, unless that is done already."""
        with self._lock:
            if namespace in self._stores:
                return
            self._stores[namespace] = self._open_store(namespace)
            if not self._thread.is_alive():
                self._thread.start()
        self._renew(namespace, self._identity)

    def renew(self) -> None:
        """Renew all leases once; a lease that cannot be written is logged."""
        with self._lock:
            namespaces = list(self._stores)
        for namespace in namespaces:
            self._renew(namespace, self._identity)

    def close(self) -> None:
        """Release the leases: a `run` that begins now drives by itself."""
        self._stopping.set()
        with self._lock:
            namespaces = list(self._stores)
        for namespace in namespaces:
            self._renew(namespace, "")

    def _work(self) -> None:
        while not self._stopping.wait(self._duration_s / 3):
            self.renew()

    def _renew(self, namespace: str, holder: str) -> None:
        store = self._stores.get(namespace)
        if store is None:
            return
        try:
            found: LeaseRecord = store.read_lease()
            now_s = self._clock.wall_s()
            if found.holder not in ("", self._identity) and not holder:
                return  # another controller is alive here
            if found.holder != self._identity:
                found = replace(found, acquired_at_s=now_s, transitions=found.transitions + 1)
            store.write_lease(replace(found, holder=holder, duration_s=self._duration_s, renewed_at_s=now_s))
            self._failing.discard(namespace)
        except NotFound:  # the namespace is gone
            with self._lock:
                self._stores.pop(namespace, None)
        except RolloutError as error:
            if namespace not in self._failing:  # a namespace that is being deleted refuses it for a long time
                log.warning("presence_not_renewed", namespace=namespace, detail=str(error))
            self._failing.add(namespace)
