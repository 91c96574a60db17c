"""Everything that can go wrong while a rollout is planned, judged or carried out, as one tree.

    RolloutError
    |-- ManifestError           a manifest is not a SeldonDeployment, or lacks what was asked of it
    |-- TargetError             the deployment could not be read or written
    |   |-- NotFound                it does not exist, or its kind is not installed
    |   |-- Denied                  401 or 403: who asks is unknown, or may not do this
    |   |-- Conflict                somebody wrote in between: read again before deciding anything
    |   |-- Rejected                the API server or the operator's webhook refused the object
    |   `-- Unavailable             no answer in time, 429 or 5xx: the same call may succeed later
    |-- PlanError               rollout.yaml or the flags ask for something that makes no sense
    |-- StateError              there is no rollout to continue, there is one already, or its record cannot be read
    |-- LeaseHeld               another promoter drives this deployment
    |-- LeaseLost               another promoter took over while this one was away: this one stops
    |-- InternalError           nobody expected this error; the way back was tried
    |-- ReportError             a log cannot be read, so there is nothing to report
    `-- EvidenceError           there are no counts to judge by: a rollout holds, nothing else follows
        |-- EvidenceUnavailable     outage, timeout, 429: the same question may be answered later
        `-- EvidenceMalformed       an answer came that cannot be trusted: NaN, doubled series, missing buckets

A message says what happened, which value was received, what is allowed and what to run next. Exceptions of
third-party clients never leave their adapter.
"""

from __future__ import annotations

import errno


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


class TargetError(RolloutError):
    """The deployment could not be read or written."""


class NotFound(TargetError):
    """The deployment does not exist, or its kind is not installed."""


class Denied(TargetError):
    """Who asks is unknown (401) or may not do this (403)."""


class Conflict(TargetError):
    """Somebody wrote in between: read again before deciding anything."""


class Rejected(TargetError):
    """The API server or the operator's webhook refused the object."""


class Unavailable(TargetError):
    """No answer in time, 429 or 5xx: the same call may succeed later."""


class PlanError(RolloutError):
    """The plan asks for something that makes no sense."""


class StateError(RolloutError):
    """There is no rollout to continue, there is one already, or its record cannot be read."""


class LeaseHeld(RolloutError):
    """Another promoter drives this deployment; holder: its name, if it is known."""

    def __init__(self, message: str, *, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLost(RolloutError):
    """Another promoter took over while this one was away."""


class InternalError(RolloutError):
    """An error that nobody expected; the way back was tried, and the message says how that ended."""


class ReportError(RolloutError):
    """A log cannot be read, so there is nothing to report."""


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # a write that fails so names no file


def os_error_line(error: OSError) -> str:
    """Return an error of a file, or of the disk, as one line; empty: it is of neither, and a defect."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"cannot write: {error.strerror}" if error.errno in _OF_THE_DISK else ""
