"""What the controller knows of all rollouts: their state, who drives them, and when that driver was last seen."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from rollout.clock import Clock
from rollout.engine.record import Record
from rollout.engine.state import RolloutState

Key = tuple[str, str]
"""Namespace and name of a SeldonDeployment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The last rollout of one deployment. Times are Unix time.

    driver: who drives it; empty until somebody was seen. driver_since_s: since when, as far as this controller knows.
    driver_seen_s: when it last proved to be alive, or when the controller first saw the rollout. problem: why this
    controller does not drive it, if it tried.
    """

    namespace: str
    name: str
    state: RolloutState
    driver: str = ""
    driver_since_s: float = 0.0
    driver_seen_s: float = 0.0
    problem: str = ""

    @property
    def under_way(self) -> bool:
        """Whether the rollout is not over."""
        return not self.state.phase.over


class Overview:
    """A thread-safe table of entries, one for each deployment. identity: the name of this controller."""

    def __init__(self, clock: Clock, identity: str) -> None:
        self.identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[Key, Entry] = {}

    def entries(self) -> list[Entry]:
        """Return all entries, those under way first, then the newest first."""
        with self._lock:
            found = list(self._entries.values())
        return sorted(found, key=lambda one: (not one.under_way, -one.state.started_at_s, one.namespace, one.name))

    def found(self, namespace: str, name: str, state: RolloutState) -> None:
        """Take a state over as it is in the cluster; one that is older than the known state is ignored."""
        with self._lock:
            known = self._entries.get((namespace, name))
            if known is None or known.state.id != state.id:
                entry = Entry(namespace, name, state, driver_seen_s=self._clock.wall_s())
            elif state.updated_at_s >= known.state.updated_at_s or state.phase.over:
                entry = replace(known, state=state)
            else:
                return
            self._entries[namespace, name] = entry

    def removed(self, namespace: str, name: str) -> None:
        """Forget a deployment."""
        with self._lock:
            self._entries.pop((namespace, name), None)

    def driven(self, namespace: str, name: str, driver: str) -> None:
        """Note that a driver is alive."""
        now_s = self._clock.wall_s()
        with self._lock:
            if known := self._entries.get((namespace, name)):
                since_s = known.driver_since_s if known.driver == driver else now_s
                self._entries[namespace, name] = replace(
                    known, driver=driver, driver_since_s=since_s, driver_seen_s=now_s, problem=""
                )

    def troubled(self, namespace: str, name: str, problem: str) -> None:
        """Note why this controller does not drive a rollout."""
        with self._lock:
            if known := self._entries.get((namespace, name)):
                self._entries[namespace, name] = replace(known, problem=problem)


class OwnDriver:
    """A subscriber that tells the overview what a driver of this controller does."""

    def __init__(self, overview: Overview, namespace: str, name: str) -> None:
        self._overview = overview
        self._key = (namespace, name)

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record."""
        self._overview.found(*self._key, state)
        self._overview.driven(*self._key, self._overview.identity)
