"""Caddy's configuration: the edge that callers connect to, and the mesh behind it that holds the weights. Pure.

Two processes, because every change of a Caddy's configuration restarts its servers and closes idle keep-alive
connections: a request that was just being sent on one is lost (measured: 451 lost in 89 changes under wrk with 16
connections). The edge never changes, so callers keep their connections; it forwards to the mesh over a unix socket and
repeats what a closing connection lost there (measured: none lost in 289 changes, 134,000 requests). Only broken
*connections to the mesh* are repeated: an answer, 5xx included, is passed on as it is, and the mesh itself never
retries, has no health checks and so cannot hide a failing canary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local_seldon.environment import METRICS_ENDPOINT
from local_seldon.ports import HOST
from local_seldon.routes import Endpoint, Routes
from rollout.targets.caddy import SPLIT, upstream_weights

Json = dict[str, Any]

PREDICTOR_HEADER = "X-Seldon-Predictor"
# Shorter than the servers' own (uvicorn: 5 s), or a request meets a connection that the server is just closing.
IDLE_TIMEOUT = "2s"
GRACE_PERIOD = "20s"
EDGE_RETRIES = {
    "retries": 5,
    "try_duration": "3s",
    "try_interval": "5ms",
    "retry_match": [{"path": ["*"]}],  # predictions change nothing, so POST may be repeated as well
}
BODY_MAX_BYTES = 1 << 28  # what the edge keeps to be able to repeat a request; the servers' own limits are lower
GRPC = {"protocol": "grpc"}
GRPC_STREAM = {"protocol": "grpc", "path": ["/inference.GRPCInferenceService/ModelStreamInfer"]}


def edge_config(port: int, mesh_socket: str) -> Json:
    """Return the edge's configuration: one port for REST and gRPC (h2c), everything to the mesh."""
    unbuffered = {"upstreams": [{"dial": f"unix/{mesh_socket}"}], "handler": "reverse_proxy"}
    repeating = {**unbuffered, "load_balancing": EDGE_RETRIES, "request_buffers": BODY_MAX_BYTES}
    h2c = {"transport": {"protocol": "http", "versions": ["h2c", "2"]}}
    routes = [
        _route({**unbuffered, **h2c}, match=[GRPC_STREAM]),  # a stream's body has no end to wait for
        _route({**repeating, **h2c}, match=[GRPC]),
        _route({**repeating, "transport": {"protocol": "http"}}),
    ]
    return _config("edge", f"{HOST}:{port}", routes, admin={"disabled": True})


def mesh_config(routes: Routes, mesh_socket: str, admin_socket: str) -> Json:
    """Return the mesh's configuration. Raises ValueError when a predictor with weight has no endpoint."""
    handlers = [
        _route(_by_name(routes), _split(routes, "grpc", ["h2c", "2"]), match=_grpc_of(routes)),
        _route({"handler": "static_response", "status_code": 404}, match=[GRPC]),
        {"handle": [_strip(routes.prefix)], "match": [{"path": [f"{routes.prefix}/*"]}]},  # and on to the routes below
        *_direct(routes),
        _route(_by_name(routes), _split(routes, "rest", ["1.1"])),
    ]
    admin = {"listen": f"unix/{admin_socket}|0600", "config": {"persist": False}}
    return _config("mesh", f"unix/{mesh_socket}|0600", handlers, admin=admin)


def _grpc_of(routes: Routes) -> list[Json]:
    """Istio's headers, or none at all: a client on this machine need not know them."""
    named = {"header": {"Seldon": [routes.name], "Namespace": [routes.namespace]}}
    return [{**GRPC, **named}, {**GRPC, "not": [{"header": {"Seldon": ["*"]}}]}]


def _split(routes: Routes, protocol: str, versions: list[str]) -> Json:
    if not routes.weights:
        body = '{"error": "no predictor has been ready yet; retry later", "code": "not_ready"}'
        headers = {"Content-Type": ["application/json"], "Retry-After": ["1"]}
        return {"handler": "static_response", "status_code": 503, "headers": headers, "body": body}
    weights = upstream_weights([endpoint.predictor for endpoint in routes.endpoints], routes.weights)
    return {
        "@id": f"{SPLIT}{protocol}",
        "handler": "reverse_proxy",
        "upstreams": [
            {"@id": f"{protocol}:{endpoint.predictor}:{endpoint.ports.http}", "dial": _address(endpoint, protocol)}
            for endpoint in routes.endpoints
        ],
        "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": weights}},
        "transport": _transport(versions),
        "headers": {"response": {"deferred": True, "set": {PREDICTOR_HEADER: ["{predictor}"]}}},
    }


def _by_name(routes: Routes) -> Json:
    """Return a map from the chosen upstream's address to its predictor, read when the answer's headers are written."""
    mappings = [
        {"input": _address(endpoint, protocol), "outputs": [endpoint.predictor]}
        for endpoint in routes.endpoints
        for protocol in ("rest", "grpc")
    ]
    source = "{http.reverse_proxy.upstream.hostport}"
    return {"handler": "map", "source": source, "destinations": ["{predictor}"], "mappings": mappings}


def _direct(routes: Routes) -> list[Json]:
    """Return one predictor's own paths, past the weights: /predictors/<name>/... and each replica's metrics."""
    direct = []
    for endpoint in reversed(routes.replicas):  # after an edit the newest comes first
        path = f"/predictors/{endpoint.predictor}/{endpoint.replica}/metrics"
        rewrite = {"handler": "rewrite", "uri": METRICS_ENDPOINT}
        direct.append(_route(rewrite, _proxy([f"{HOST}:{endpoint.ports.metrics}"]), match=[{"path": [path]}]))
    for name in dict.fromkeys(endpoint.predictor for endpoint in routes.replicas):
        dials = [_address(endpoint, "rest") for endpoint in routes.replicas if endpoint.predictor == name]
        prefix = f"/predictors/{name}"
        direct.append(_route(_strip(prefix), _proxy(dials), match=[{"path": [f"{prefix}/*"]}]))
    return direct


def _strip(prefix: str) -> Json:
    return {"handler": "rewrite", "strip_path_prefix": prefix}


def _proxy(dials: Sequence[str]) -> Json:
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": dial} for dial in dials],
        "transport": _transport(["1.1"]),
    }


def _transport(versions: list[str]) -> Json:
    return {
        "protocol": "http",
        "versions": versions,
        "dial_timeout": "1s",
        "keep_alive": {"idle_timeout": IDLE_TIMEOUT},
    }


def _address(endpoint: Endpoint, protocol: str) -> str:
    return f"{HOST}:{endpoint.ports.grpc if protocol == 'grpc' else endpoint.ports.http}"


def _route(*handlers: Json, match: list[Json] | None = None) -> Json:
    route: Json = {"handle": list(handlers), "terminal": True}
    return {**route, "match": match} if match else route


def _config(name: str, listen: str, routes: list[Json], *, admin: Json) -> Json:
    server = {
        "listen": [listen],
        "routes": routes,
        "protocols": ["h1", "h2", "h2c"],
        "automatic_https": {"disable": True},
    }
    return {
        "admin": admin,
        "logging": {"logs": {"default": {"level": "WARN"}}},
        "apps": {"http": {"grace_period": GRACE_PERIOD, "servers": {name: server}}},
    }
