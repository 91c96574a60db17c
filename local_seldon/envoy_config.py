"""Envoy's configuration for one deployment: listener, clusters, routes as the operator's VirtualService has them.

One listener takes REST and gRPC (HTTP/1.1 and h2c). Every predictor has two clusters, one per protocol, whose endpoints
are its ready replicas; with none, callers get 503 from Envoy ("no healthy upstream"), as from Istio's gateway.

For gRPC (with the operator's headers, or none) and for REST (below the operator's path, or any), in this order:
1. requests with the header X-Seldon-Predictor go to that predictor, past the weights: how a version at 0 % is tried;
2. all others are split by the weights, and copied to a shadow where there is one.

Envoy repeats no request and checks no health, so nothing hides a failing canary. Istio's default, two more tries after
refused connection or a 503, is left out for that reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_seldon.ports import HOST
from local_seldon.replica import Ports
from rollout.targets.envoy import GRPC, PREDICTOR_HEADER, REST, ROUTES, SPLIT, DiscoveryFile, cluster_name

Json = dict[str, Any]

# Shorter than the servers' own timeout (uvicorn: 5 s), so that no request is sent on a connection that is closing.
IDLE_TIMEOUT = "2s"
CONNECT_TIMEOUT = "1s"
UNLIMITED = (1 << 32) - 1  # as Istio sets it: Envoy's default, 1,024 requests per cluster, is not the service's limit
LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 35, 50, 75, 100, 250, 1000)
"""Those of the service's own histogram (serving_request_seconds), so that the two can be compared."""
TYPE = "type.googleapis.com"


@dataclass(frozen=True, slots=True)
class Routes:
    """The routing of a deployment's requests.

    weights: percent per predictor; empty: 503, nothing has been ready yet. mirrors: by shadow, percent of requests that
    are copied to it. chosen: the predictors that a header may select.
    """

    namespace: str
    name: str
    weights: Mapping[str, int] = field(default_factory=dict)
    mirrors: Mapping[str, int] = field(default_factory=dict)
    chosen: Sequence[str] = ()

    @property
    def prefix(self) -> str:
        """The operator's path below the gateway."""
        return f"/seldon/{self.namespace}/{self.name}"


def bootstrap(port: int, admin_socket: Path, clusters: DiscoveryFile, routes: DiscoveryFile) -> Json:
    """Return Envoy's bootstrap configuration; everything that changes is in the two files and those that they name."""
    connection_manager = {
        "@type": f"{TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": ROUTES,
        "codec_type": "AUTO",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(routes)},
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
        "preserve_external_request_id": True,  # a copy for a shadow has the same x-request-id as its original
        "normalize_path": True,
        "http_filters": [
            _extension(
                "envoy.filters.http.grpc_stats",
                "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
                stats_for_all_methods=True,
            ),
            _extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
    }
    listener = {
        "name": "callers",
        "address": _address(port),
        "enable_reuse_port": False,  # a second process on this port must fail and not share its connections
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]}
        ],
    }
    buckets = {"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_BUCKETS_MS)}
    return {
        "node": {"id": "local", "cluster": "local"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "stats_flush_interval": "0.5s",  # histograms are as old as the last flush; counters are always current
        "stats_config": {"histogram_bucket_settings": [buckets]},
        "dynamic_resources": {"cds_config": _watched(clusters)},
        "static_resources": {"listeners": [listener]},
    }


def cluster(name: str, endpoints: DiscoveryFile) -> Json:
    """Return one cluster. Its endpoints are in a separate file, so replicas change without a new cluster."""
    http = "http2_protocol_options" if name.startswith(f"{GRPC}-") else "http_protocol_options"
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), UNLIMITED)
    return {
        "@type": f"{TYPE}/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(endpoints)},
        "connect_timeout": CONNECT_TIMEOUT,
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            options: {
                "@type": f"{TYPE}/{options}",
                "common_http_protocol_options": {"idle_timeout": IDLE_TIMEOUT},
                "explicit_http_config": {http: {}},
            }
        },
    }


def endpoints(name: str, replicas: Iterable[Ports]) -> Json:
    """Return the endpoints of a cluster."""
    ports = [one.grpc if name.startswith(f"{GRPC}-") else one.http for one in replicas]
    return {
        "@type": f"{TYPE}/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}} for port in ports]}],
    }


def route_configuration(routes: Routes) -> Json:
    """Return the routes, as the file `routes` holds them."""
    namespaced = [_exactly("seldon", routes.name), _exactly("namespace", routes.namespace)]
    bare = [{"name": "seldon", "present_match": False}]  # a client on this machine may omit the operator's headers
    grpc: list[Json] = [{"prefix": "/", "grpc": {}, "headers": headers} for headers in (namespaced, bare)]
    rest: list[Json] = [{"prefix": f"{routes.prefix}/"}, {"prefix": "/"}]
    foreign = f"the metadata must be seldon: {routes.name}, namespace: {routes.namespace}, or have neither"
    found = [
        *_routes_of(routes, GRPC, grpc),
        _refusal({"prefix": "/", "grpc": {}}, 404, foreign, "not_found"),
        *_routes_of(routes, REST, rest),
    ]
    return {
        "@type": f"{TYPE}/envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [{"name": routes.name, "domains": ["*"], "routes": found}],
    }


def _routes_of(routes: Routes, protocol: str, matches: Sequence[Json]) -> list[Json]:
    """Return one protocol's routes: to a selected predictor, then by weight."""
    found = []
    for name in routes.chosen:
        one = {"cluster": cluster_name(protocol, name)}
        chosen = [_with(match, _exactly(PREDICTOR_HEADER, name)) for match in matches]
        found += [{**_route(f"chosen:{name}", match, one), **_answered_by(name)} for match in chosen]
    present = {"name": PREDICTOR_HEADER, "present_match": True}
    known = f"{PREDICTOR_HEADER} names no predictor that has a route; known: {', '.join(routes.chosen) or 'none'}"
    found += [_refusal(_with(match, present), 404, known, "not_found") for match in matches]
    if not routes.weights:
        return [*found, *(_refusal(match, 503, "no predictor has been ready yet", "not_ready") for match in matches)]
    split = {
        "weighted_clusters": {
            "clusters": [
                {"name": cluster_name(protocol, name), "weight": percent, **_answered_by(name)}
                for name, percent in routes.weights.items()
            ]
        },
        "request_mirror_policies": [
            {
                "cluster": cluster_name(protocol, name),
                "runtime_fraction": {"default_value": {"numerator": percent, "denominator": "HUNDRED"}},
            }
            for name, percent in routes.mirrors.items()
        ],
    }
    return [*found, *(_route(f"{SPLIT}{protocol}", match, split) for match in matches)]


def _route(name: str, match: Json, action: Json) -> Json:
    """Return a route without a time limit: the service has its own, and a stream may last."""
    rewrite = {} if match["prefix"] == "/" else {"prefix_rewrite": "/"}
    return {"name": name, "match": match, "route": {**action, **rewrite, "timeout": "0s"}}


def _refusal(match: Json, status: int, error: str, code: str) -> Json:
    """Return a route with a fixed response; for gRPC, Envoy converts it to a status."""
    body = {"inline_string": json.dumps({"error": error, "code": code})}
    headers = [_header("Content-Type", "application/json"), *([_header("Retry-After", "1")] if status == 503 else [])]
    return {
        "name": f"refused:{code}",
        "match": match,
        "direct_response": {"status": status, "body": body},
        "response_headers_to_add": headers,
    }


def _with(match: Json, header: Json) -> Json:
    return {**match, "headers": [*match.get("headers", []), header]}


def _exactly(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def _answered_by(predictor: str) -> Json:
    return {"response_headers_to_add": [_header(PREDICTOR_HEADER, predictor)]}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _extension(name: str, kind: str, **settings: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{TYPE}/{kind}", **settings}}


def _address(port: int) -> Json:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _watched(file: DiscoveryFile) -> Json:
    return {"path_config_source": {"path": str(file.path)}, "resource_api_version": "V3"}
