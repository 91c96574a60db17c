"""What an open-loop load test is to do."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.target import Target

# LoadGen wants this many requests under the bound before it believes a P99 with 99 % confidence (459, rounded up).
MIN_QUERIES = 512


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One test: what is asked of whom, how often, for how long. cpu pins the client to one core."""

    target: Target
    path: str
    bodies: tuple[bytes, ...]
    is_grpc: bool
    qps: float
    duration_s: float
    bound_ms: float = 50.0
    percentile: float = 0.99
    connections: int = 64
    timeout_s: float = 2.0
    warmup_s: float = 1.0
    seed: int = 0
    cpu: int | None = None
