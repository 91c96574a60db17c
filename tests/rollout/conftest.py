"""A world for rollouts: a deployment in memory, traffic that follows the mesh, and a clock that only sleep moves."""

from __future__ import annotations

import pytest

from tests.support.rollout_world import Behaviour, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def behaviour() -> type[Behaviour]:
    return Behaviour
