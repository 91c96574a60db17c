from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import Unavailable
from rollout.targets.envoy import DiscoveryFile, EnvoyAdmin, read_weights, with_weights


def split(protocol: str, **weights: int) -> dict[str, Any]:
    clusters = [{"name": f"{protocol}-{name}", "weight": weight} for name, weight in weights.items()]
    return {"name": f"weights:{protocol}", "route": {"weighted_clusters": {"clusters": clusters}}}


def routes(*found: dict[str, Any]) -> dict[str, Any]:
    chosen = {"name": "chosen:v1", "route": {"cluster": "rest-v1"}}
    return {"name": "mesh", "virtual_hosts": [{"name": "churn", "routes": [chosen, *found]}]}


@given(percent=st.integers(0, 100))
def test_what_is_written_is_read_back_from_every_route(percent: int) -> None:
    before = routes(split("grpc", v1=100, v2=0), split("rest", v1=100, v2=0))
    untouched = copy.deepcopy(before)
    wanted = {"v1": 100 - percent, "v2": percent}
    assert read_weights(with_weights(before, wanted)) == wanted
    assert before == untouched


def test_a_predictor_that_is_not_named_gets_nothing_and_stays_known() -> None:
    before = routes(split("rest", v1=50, v2=50))
    assert read_weights(with_weights(before, {"v1": 100})) == {"v1": 100, "v2": 0}


def test_weights_are_shares_of_their_sum() -> None:
    assert read_weights(routes(split("rest", v1=3, v2=1))) == {"v1": 75, "v2": 25}


def test_weight_for_nobody_is_refused() -> None:
    before = routes(split("rest", v1=50, v2=50))
    with pytest.raises(ValueError, match="v3 has weight and no route; predictors with routes: v1, v2"):
        with_weights(before, {"v1": 50, "v3": 50})
    with pytest.raises(ValueError, match="no predictor has any weight"):
        with_weights(before, {"v1": 0})
    with pytest.raises(ValueError, match="nothing is routed yet"):
        with_weights(routes(), {"v1": 100})


def test_routes_that_differ_are_not_averaged() -> None:
    with pytest.raises(ValueError, match="the routes differ"):
        read_weights(routes(split("grpc", v1=50, v2=50), split("rest", v1=90, v2=10)))


def test_without_a_weighted_route_there_are_no_weights() -> None:
    assert read_weights(routes()) == {}


def test_a_file_gets_a_new_version_with_each_change_and_only_then(tmp_path: Path) -> None:
    file = DiscoveryFile(tmp_path, "routes")
    assert file.read() == (0, [])
    assert file.replace([]) == 1
    assert file.replace([{"a": 1}]) == 2
    assert file.replace([{"a": 1}]) == 2
    assert file.change(lambda found: [*found, {"b": 2}]) == 3
    assert file.read() == (3, [{"a": 1}, {"b": 2}])


def test_two_writers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    file = DiscoveryFile(tmp_path, "routes")

    def write(number: int) -> None:
        DiscoveryFile(tmp_path, "routes").change(lambda found: [*found, {"number": number}])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    version, found = file.read()
    assert version == 20
    assert sorted(one["number"] for one in found) == list(range(20))


def test_an_envoy_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"admin\.sock did not answer /stats"):
        EnvoyAdmin(str(tmp_path / "admin.sock")).versions()
