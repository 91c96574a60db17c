"""Everything that can go wrong while a rollout is planned, judged or carried out, as one tree.

    RolloutError
    |-- ManifestError           a manifest is not a SeldonDeployment, or lacks what was asked of it
    `-- EvidenceError           there are no counts to judge by: a rollout holds, it never promotes or rolls back on this
        |-- EvidenceUnavailable     outage, timeout, 429: the same question may be answered later
        `-- EvidenceMalformed       an answer came that cannot be trusted: NaN, doubled series, missing buckets

A message says what happened, which value was received, what is allowed and what to run next. Exceptions of
third-party clients never leave their adapter.
"""

from __future__ import annotations


class RolloutError(Exception):
    """The root: whatever the rollout package raises on purpose."""


class ManifestError(RolloutError):
    """A manifest is not a SeldonDeployment, or lacks what was asked of it."""


class EvidenceError(RolloutError):
    """There are no counts to judge by."""


class EvidenceUnavailable(EvidenceError):
    """The source did not answer; the same question may be answered later, not before `retry_after_s` if it is given."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EvidenceMalformed(EvidenceError):
    """The source's answer cannot be trusted: NaN, doubled series, missing buckets."""
