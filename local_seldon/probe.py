"""Readiness of one replica, asked as the kubelet would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

from local_seldon.ports import HOST, Ports
from rollout.manifest.predictor import Container

# A new replica is asked often, so that a rollout on one machine takes seconds; later as the manifest says, but at
# least once a second.
STARTING_PERIOD_S = 0.1
LONGEST_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """The container's readiness probe; without one, a TCP connection, as the operator's default (too early!).

    path: None for TCP. failures: how many in a row make a ready replica unready.
    """

    path: str | None
    period_s: float
    timeout_s: float
    failures: int

    @classmethod
    def of(cls, container: Container) -> ReadinessProbe:
        """Read the container's probe. Kubernetes' defaults fill in what it leaves out."""
        probe = container.readiness_probe
        more = (probe.model_extra or {}) if probe else {}
        return cls(
            path=probe.http_get.path if probe and probe.http_get else None,
            period_s=min(float(more.get("periodSeconds", 10)), LONGEST_PERIOD_S),
            timeout_s=float(more.get("timeoutSeconds", 1)),
            failures=int(more.get("failureThreshold", 3)),
        )

    async def passes(self, client: httpx.AsyncClient, ports: Ports) -> bool:
        """Ask once; any answer 200..399 passes, as does an accepted connection where there is no path."""
        try:
            if self.path is None:
                _, writer = await asyncio.wait_for(asyncio.open_connection(HOST, ports.http), self.timeout_s)
                writer.close()
                return True
            answer = await client.get(f"http://{HOST}:{ports.http}{self.path}", timeout=self.timeout_s)
        except (OSError, TimeoutError, httpx.HTTPError):
            return False
        return 200 <= answer.status_code < 400
