"""The contract of every place, held in memory, behind a Kubernetes API over HTTP, and on this machine."""

from __future__ import annotations

from tests.rollout.targets.contract import Contract


class TestContract(Contract):
    """`scene` is each of the three in turn."""
