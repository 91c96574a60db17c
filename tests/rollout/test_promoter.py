"""The loop, from the first patch to the last, in a world of one dictionary."""

from __future__ import annotations


def test_a_healthy_version_climbs_every_step_and_the_old_predictor_goes(world):
    outcome = world.run()
    assert outcome.state.phase == "Succeeded", outcome.state.message
    assert world.predictors == ["v8"]
    assert world.target.mesh_weights == {"v8": 100}
