"""The controller's watch on SeldonDeployments, with kopf: each rollout under way gets a driver.

Only raw events are handled. They need no finalizer and write nothing, so a controller that is gone never keeps a
SeldonDeployment from being deleted. kopf lists and watches, continues after the end of a stream, and retries for about
a minute; after an error that it gives up on it is started again. Meanwhile the drivers continue: they do not need the
watch.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kopf
import structlog

from rollout.controller.drivers import Drivers
from rollout.controller.overview import Overview
from rollout.controller.presence import Presence
from rollout.engine.state import STATE, RolloutState, read_state
from rollout.errors import RolloutError, StateError

log = structlog.get_logger(__name__)
GROUP, VERSION, PLURAL = "machinelearning.seldon.io", "v1", "seldondeployments"
WATCH_TIMEOUT_S = 300
RESTART_S = 5.0
REQUEST_TIMEOUT_S = 30.0


def watch(
    drivers: Drivers,
    overview: Overview,
    presence: Presence,
    *,
    namespace: str = "",
    probe: Callable[[], None] = lambda: None,
    restart_s: float = RESTART_S,
) -> None:
    """Watch a namespace (empty: all of them) until SIGTERM or SIGINT; then end the drivers.

    Must be called in the main thread. probe: called before each start of the watch; it raises RolloutError when
    SeldonDeployments cannot be listed, of which kopf would say nothing.
    """
    stopping = threading.Event()
    try:
        while True:
            for number in (signal.SIGTERM, signal.SIGINT):  # asyncio resets them at the end of each run
                signal.signal(number, lambda *_: stopping.set())
            if stopping.is_set():
                return
            try:
                probe()
                if namespace:
                    presence.announce(namespace)
                _run(drivers, overview, presence, namespace)
                return  # kopf ends without an error only after a signal
            except RolloutError as error:
                log.error("cannot_watch", detail=str(error))
            except Exception as error:
                log.error("watch_ended", detail=repr(error))
            stopping.wait(restart_s)
    finally:
        drivers.close()


def _run(drivers: Drivers, overview: Overview, presence: Presence, namespace: str) -> None:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # the promoter writes its own events
    settings.scanning.disabled = True  # no right to watch CustomResourceDefinitions and namespaces is needed
    settings.watching.server_timeout = WATCH_TIMEOUT_S
    settings.networking.request_timeout = REQUEST_TIMEOUT_S
    kopf.run(
        registry=registry(drivers, overview, presence),
        settings=settings,
        standalone=True,
        namespaces=[namespace] if namespace else [],
        clusterwide=not namespace,
    )


def registry(drivers: Drivers, overview: Overview, presence: Presence) -> kopf.OperatorRegistry:
    """Return the handlers: one for events, one for credentials (a pod's service account, else KUBECONFIG)."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)  # type: ignore[arg-type]
    async def changed(type: str | None, name: str, namespace: str, annotations: Mapping[str, str], **_: Any) -> None:
        await asyncio.to_thread(presence.announce, namespace)
        if type == "DELETED":
            overview.removed(namespace, name)
        elif state := recorded(namespace, name, annotations):
            overview.found(namespace, name, state)
            if not state.phase.over:
                drivers.ensure(namespace, name)

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return handlers


def recorded(namespace: str, name: str, annotations: Mapping[str, str]) -> RolloutState | None:
    """Return the rollout that the annotations record; None if there is none, or it cannot be read."""
    if STATE not in annotations:
        return None
    try:
        return read_state(annotations)
    except StateError as error:
        log.warning("record_lost", namespace=namespace, deployment=name, detail=str(error))
        return None
