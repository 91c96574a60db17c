"""Everything that can go wrong while a rollout is planned, judged or carried out, as one tree.

    RolloutError
    `-- ManifestError       a manifest is not a SeldonDeployment, or lacks what was asked of it

A message says what happened, which value was received, what is allowed and what to run next. Exceptions of
third-party clients never leave their adapter.
"""

from __future__ import annotations


class RolloutError(Exception):
    """The root: whatever the rollout package raises on purpose."""


class ManifestError(RolloutError):
    """A manifest is not a SeldonDeployment, or lacks what was asked of it."""
