"""The controller's watch on SeldonDeployments, with kopf: whatever carries a rollout under way gets a driver.

kopf lists and watches, again after every outage. Only raw events are handled: they need no finalizer, so a controller
that is gone never keeps a SeldonDeployment from being deleted, and they write nothing to it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import kopf

from rollout.controller.drivers import Drivers
from rollout.engine.state import STATE, read_state
from rollout.errors import StateError

GROUP, VERSION, PLURAL = "machinelearning.seldon.io", "v1", "seldondeployments"
WATCH_TIMEOUT_S = 300


def run(
    drivers: Drivers, *, namespace: str = "", liveness: str | None = None, stop: threading.Event | None = None
) -> None:
    """Watch a namespace (empty: all of them) until a signal comes, or `stop` is set; then end the drivers.

    liveness: a URL to answer probes at, such as http://0.0.0.0:8080/healthz.
    """
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # the promoter writes its own events
    settings.scanning.disabled = True  # no right to list CustomResourceDefinitions is needed
    settings.watching.server_timeout = WATCH_TIMEOUT_S
    try:
        kopf.run(
            registry=registry(drivers),
            settings=settings,
            standalone=True,
            namespaces=[namespace] if namespace else [],
            clusterwide=not namespace,
            liveness_endpoint=liveness,
            stop_flag=stop,
        )
    finally:
        drivers.close()


def registry(drivers: Drivers) -> kopf.OperatorRegistry:
    """Return the handlers: one for events, one for credentials (a pod's service account, else KUBECONFIG)."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, PLURAL, annotations={STATE: kopf.PRESENT}, registry=handlers)  # type: ignore[arg-type]
    def seen(type: str | None, name: str, namespace: str, annotations: Mapping[str, str], **_: Any) -> None:
        if type != "DELETED" and under_way(annotations):
            drivers.ensure(namespace, name)

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    return handlers


def under_way(annotations: Mapping[str, str]) -> bool:
    """Whether the annotations describe a rollout that is not over; a record that cannot be read describes none."""
    try:
        state = read_state(annotations)
    except StateError:
        return False
    return state is not None and not state.phase.over
