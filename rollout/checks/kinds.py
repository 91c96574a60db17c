"""The kinds of checks that a plan may name. A new kind is one line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rollout.checks.command import CommandHook, LoadTest
from rollout.checks.http_hook import HttpHook
from rollout.checks.labels import Labels
from rollout.checks.paired import Paired
from rollout.checks.query import Query
from rollout.checks.smoke import Smoke

AnyCheck = Annotated[HttpHook | CommandHook | LoadTest | Query | Smoke | Paired | Labels, Field(discriminator="kind")]
Hook = Annotated[HttpHook | CommandHook | LoadTest, Field(discriminator="kind")]
"""The kinds that hooks may have."""
