"""Notifies a webhook with one POST for each change; observations without a change send nothing."""

from __future__ import annotations

import httpx
import structlog

from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import RolloutState

log = structlog.get_logger(__name__)
TIMEOUT_S = 5.0


class Webhook:
    """A subscriber that posts to a URL. Put it in a Background: a slow webhook must not delay a rollout."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._client = httpx.Client(timeout=TIMEOUT_S, transport=transport)
        self._url = url

    def notify(self, record: Record, state: RolloutState) -> None:
        """Post the change as JSON; chat systems show only `text`."""
        if record.event == SAMPLE:
            return
        body = {
            "text": f"{record.deployment}: {state.phase.value} ({record.event}): {record.message}",
            "deployment": record.deployment,
            "rollout": state.id,
            "phase": state.phase.value,
            "reason": record.event,
            "message": record.message,
            "weights_percent": dict(record.weights_percent),
            "at_s": record.at_s,
        }
        try:
            self._client.post(self._url, json=body).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("webhook_failed", reason=record.event, detail=str(error))
