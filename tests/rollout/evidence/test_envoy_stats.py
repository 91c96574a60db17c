from __future__ import annotations

import math

import pytest

from rollout.analysis.counts import Counts
from rollout.errors import EvidenceMalformed
from rollout.evidence.envoy_stats import MeshCounts, envoy_stats, gateway_series
from rollout.evidence.source import Ledger

PAGE = b"""\
# TYPE envoy_cluster_upstream_rq_completed counter
envoy_cluster_upstream_rq_completed{envoy_cluster_name="rest-v1-0"} 100
envoy_cluster_upstream_rq_completed{envoy_cluster_name="grpc-v1-0"} 50
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="rest-v1-0"} 90
envoy_cluster_upstream_rq_xx{envoy_response_code_class="4",envoy_cluster_name="rest-v1-0"} 3
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="rest-v1-0"} 7
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="grpc-v1-0"} 50
# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code="404",envoy_cluster_name="rest-v1-0"} 2
envoy_cluster_upstream_rq{envoy_response_code="408",envoy_cluster_name="rest-v1-0"} 1
# TYPE envoy_cluster_grpc_ModelInfer_0 counter
envoy_cluster_grpc_ModelInfer_0{envoy_cluster_name="grpc-v1-0"} 37
# TYPE envoy_cluster_grpc_ModelInfer_1 counter
envoy_cluster_grpc_ModelInfer_1{envoy_cluster_name="grpc-v1-0"} 3
# TYPE envoy_cluster_grpc_ModelInfer_5 counter
envoy_cluster_grpc_ModelInfer_5{envoy_cluster_name="grpc-v1-0"} 4
# TYPE envoy_cluster_grpc_ModelStreamInfer_14 counter
envoy_cluster_grpc_ModelStreamInfer_14{envoy_cluster_name="grpc-v1-0"} 6
# TYPE envoy_cluster_grpc_ServerLive_0 counter
envoy_cluster_grpc_ServerLive_0{envoy_cluster_name="grpc-v1-0"} 1000
# TYPE envoy_cluster_upstream_cx_none_healthy counter
envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name="rest-v1-0"} 2
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="rest-v1-0",le="1"} 60
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="rest-v1-0",le="+Inf"} 98
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="grpc-v1-0",le="1"} 10
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="grpc-v1-0",le="+Inf"} 50
"""


def test_rest_and_grpc_are_joined_and_grpcs_errors_are_its_statuses() -> None:
    assert envoy_stats(PAGE) == {
        "v1-0": MeshCounts(
            requests=150, errors=7 + 6, rejected=3 + 4, timeouts=1, resets=2, latency=((1.0, 70), (math.inf, 148))
        )
    }


def test_other_clusters_are_left_out_and_a_page_without_any_is_empty() -> None:
    assert envoy_stats(b'envoy_cluster_upstream_rq_completed{envoy_cluster_name="other"} 1\n') == {}
    assert envoy_stats(b"") == {}


def test_what_is_no_metric_page_is_refused() -> None:
    with pytest.raises(EvidenceMalformed, match="statistics cannot be read"):
        envoy_stats(b"<html>not the page</html>\n")


def test_a_request_that_timed_out_in_its_callers_body_is_not_counted_and_the_rest_is_what_callers_saw() -> None:
    ledger = Ledger()
    ledger.take(["v1-0"], [])
    taken = ledger.take(["v1-0"], gateway_series(PAGE, at_s=1.0, slo_ms=1.0))
    assert taken == {"v1-0": {"gateway": Counts(requests=149, errors=13, rejected=6, slow=78)}}


def test_an_objective_without_a_bucket_is_refused() -> None:
    with pytest.raises(EvidenceMalformed, match="no edge at the objective of 50 ms: 1, inf"):
        gateway_series(PAGE, at_s=1.0, slo_ms=50.0)
