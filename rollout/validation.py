"""Everything that is wrong with a manifest: its shape, the webhook's rules, and the gaps that those leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rollout.field_errors import field_errors
from rollout.finding import Finding, error
from rollout.gaps import gaps
from rollout.seldon import API_VERSION, KIND, SeldonDeployment
from rollout.webhook import webhook


def findings(document: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return every finding of one SeldonDeployment; a wrong shape hides what lies behind it."""
    found = (document.get("apiVersion"), document.get("kind"))
    if found != (API_VERSION, KIND):
        return (error("", f"expected {API_VERSION} {KIND}, this is {found[0]} {found[1]}"),)
    try:
        deployment = SeldonDeployment.model_validate(document)
    except ValidationError as wrong:
        return tuple(error(path, message) for path, message in field_errors(wrong))
    return (*webhook(deployment), *gaps(deployment))
