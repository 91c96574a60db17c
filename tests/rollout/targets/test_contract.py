"""The contract of every target, held in memory, behind a Kubernetes API over HTTP, and on this machine."""

from __future__ import annotations

from tests.support.targets.contract import Contract


class TestContract(Contract):
    """`scene` is each of the three in turn."""
