from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.targets.caddy import read_weights, upstream_weights, with_weights


def split(protocol: str, *upstreams: str, weights: list[int]) -> dict[str, Any]:
    return {
        "@id": f"split:{protocol}",
        "handler": "reverse_proxy",
        "upstreams": [
            {"@id": f"{protocol}:{name}:{9000 + index}", "dial": f"127.0.0.1:{9000 + index}"}
            for index, name in enumerate(upstreams)
        ],
        "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": weights}},
    }


def config(*handlers: dict[str, Any]) -> dict[str, Any]:
    return {"apps": {"http": {"servers": {"mesh": {"routes": [{"handle": [handler]} for handler in handlers]}}}}}


@given(
    percent=st.integers(0, 100),
    replicas=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_what_is_written_is_read_back_whatever_the_number_of_replicas(percent: int, replicas: tuple[int, int]) -> None:
    names = ["v1"] * replicas[0] + ["v2"] * replicas[1]
    wanted = {"v1": 100 - percent, "v2": percent}
    written = with_weights(
        config(split("grpc", *names, weights=[1] * len(names)), split("rest", *names, weights=[1] * len(names))), wanted
    )
    assert read_weights(written) == wanted


def test_weights_are_the_smallest_whole_numbers_so_that_requests_mix_finely() -> None:
    assert upstream_weights(["v1", "v2"], {"v1": 90, "v2": 10}) == [9, 1]
    assert upstream_weights(["v1", "v1", "v2"], {"v1": 50, "v2": 50}) == [1, 1, 2]
    assert upstream_weights(["v1", "v2"], {"v1": 100, "v2": 0}) == [1, 0]


def test_a_predictor_that_is_not_named_gets_nothing_and_stays_known() -> None:
    before = config(split("rest", "v1", "v2", weights=[1, 1]))
    assert read_weights(with_weights(before, {"v1": 100})) == {"v1": 100, "v2": 0}
    assert read_weights(before) == {"v1": 50, "v2": 50}


def test_weight_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="v3 has weight and no upstream; predictors with upstreams: v1, v2"):
        upstream_weights(["v1", "v2"], {"v1": 50, "v3": 50})
    with pytest.raises(ValueError, match="no predictor has any weight"):
        upstream_weights(["v1"], {"v1": 0})
    with pytest.raises(ValueError, match="nothing is routed yet"):
        with_weights(config(), {"v1": 100})


def test_splits_that_differ_are_not_averaged() -> None:
    two = config(split("grpc", "v1", "v2", weights=[1, 1]), split("rest", "v1", "v2", weights=[9, 1]))
    with pytest.raises(ValueError, match="the splits differ"):
        read_weights(two)


def test_without_a_split_there_are_no_weights() -> None:
    assert read_weights(config({"handler": "static_response", "status_code": 503})) == {}
