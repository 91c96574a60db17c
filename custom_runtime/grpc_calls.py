"""How many calls gRPC took in and how many got a status: the difference it cancelled itself, and no servicer saw them.

gRPC counts them for channelz, its own introspection. The function is the one that the package grpcio-channelz calls;
the package itself would bring a second service and another protobuf for two numbers.
"""

from __future__ import annotations

import asyncio
import json

from grpc._cython import cygrpc
from prometheus_client import Counter

COUNTED = ("grpc.enable_channelz", 1)  # the server's option, without which nothing is counted
TICK_S = 1.0

_STARTED = Counter("churn_grpc_calls_started", "gRPC calls that arrived, with those cancelled unseen.", ("predictor",))
_ANSWERED = Counter("churn_grpc_calls_answered", "gRPC calls that ended with a status, good or bad.", ("predictor",))


class CallCounts:
    """What this process's gRPC server has counted, carried over to the metrics."""

    def __init__(self, predictor: str) -> None:
        self._started_total = _STARTED.labels(predictor)
        self._answered_total = _ANSWERED.labels(predictor)
        self._started = self._answered = 0

    async def follow(self) -> None:
        """Carry the counts over once a second, and once more when it is cancelled."""
        try:
            while True:
                self.carry_over()
                await asyncio.sleep(TICK_S)
        finally:
            self.carry_over()

    def carry_over(self) -> None:
        """Add what came since the last time; costs half a millisecond."""
        (counts,) = (server["data"] for server in json.loads(cygrpc.channelz_get_servers(0))["server"])
        started = int(counts["callsStarted"])
        answered = int(counts["callsSucceeded"]) + int(counts["callsFailed"])
        self._started_total.inc(started - self._started)
        self._answered_total.inc(answered - self._answered)
        self._started, self._answered = started, answered
