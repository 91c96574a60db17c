from __future__ import annotations

from typing import Any

from local_seldon.envoy_config import LATENCY_BUCKETS_MS, Routes, route_configuration
from rollout.analysis.counts import LATENCY_EDGES_MS
from rollout.targets.envoy import PREDICTOR_HEADER, read_weights


def routes(**settings: Any) -> list[dict[str, Any]]:
    (host,) = route_configuration(Routes("models", "churn", **settings))["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


def test_rest_and_grpc_have_the_same_weights_with_and_without_the_operators_path() -> None:
    found = [one for one in routes(weights={"v1": 90, "v2": 10}) if one["name"].startswith("weights:")]
    assert [one["name"] for one in found] == ["weights:grpc"] * 2 + ["weights:rest"] * 2
    assert read_weights(route_configuration(Routes("models", "churn", {"v1": 90, "v2": 10}))) == {"v1": 90, "v2": 10}
    assert [one["match"]["prefix"] for one in found] == ["/", "/", "/seldon/models/churn/", "/"]
    assert found[2]["route"]["prefix_rewrite"] == "/"
    assert all(one["route"]["timeout"] == "0s" for one in found)  # Envoy's own 15 s would cut a stream


def test_a_header_comes_before_the_weights_and_an_unknown_one_is_refused_not_routed() -> None:
    for protocol in ("grpc", "rest"):
        names = [
            one["name"]
            for one in routes(weights={"v1": 100, "v2": 0}, chosen=["v1", "v2"])
            if ("grpc" in one["match"]) == (protocol == "grpc")
        ]
        assert names.index("chosen:v2") < names.index("refused:not_found") < names.index(f"weights:{protocol}")
    chosen = next(one for one in routes(weights={"v1": 100}, chosen=["v1"]) if one["name"] == "chosen:v1")
    assert {"name": PREDICTOR_HEADER, "string_match": {"exact": "v1"}} in chosen["match"]["headers"]


def test_a_mirror_copies_its_percent_of_what_is_split_and_nothing_that_is_chosen() -> None:
    found = routes(weights={"v1": 100}, mirrors={"v2": 25}, chosen=["v1", "v2"])
    mirrored = [one for one in found if one.get("route", {}).get("request_mirror_policies")]
    assert {one["name"] for one in mirrored} == {"weights:grpc", "weights:rest"}
    fractions = [one["route"]["request_mirror_policies"][0]["runtime_fraction"]["default_value"] for one in mirrored]
    assert fractions == [{"numerator": 25, "denominator": "HUNDRED"}] * 4


def test_before_anything_is_ready_every_request_is_answered_503() -> None:
    refused = {one["direct_response"]["status"] for one in routes() if one["name"] == "refused:not_ready"}
    assert refused == {503}
    assert not [one for one in routes() if "route" in one]


def test_the_gateways_histogram_has_the_buckets_of_the_services_own() -> None:
    assert list(LATENCY_BUCKETS_MS) == list(LATENCY_EDGES_MS)
