"""Envoy as the mesh of one machine: its route file, and the state that its admin socket reports.

Envoy reads its routes from `<state>/envoy/routes.json` (file-based xDS) and applies a new version without closing a
connection. The file corresponds to the VirtualService in a cluster: the local operator writes it, and so may a promoter
whose operator does not answer. A lock prevents concurrent writes. The current routes are read from Envoy itself.

A route whose name begins with `weights:` splits its requests by percent over clusters named `<protocol>-<predictor>`.
There are several (REST and gRPC, with and without the operator's path), and all have equal weights.
"""

from __future__ import annotations

import copy
import fcntl
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rollout.errors import Rejected, Unavailable
from rollout.manifest.seldon import weight_words

ROUTES = "mesh"
"""The name of the route configuration, and of the statistics of the callers' requests."""
SPLIT = "weights:"
REST, GRPC = "rest", "grpc"
PREDICTOR_HEADER = "X-Seldon-Predictor"
"""In a request it selects the predictor; in a response it names the predictor that answered."""
TIMEOUT_S = 5.0
POLL_S = 0.005
# xDS resources by file name -> the statistic with the version that Envoy has applied.
ROUTES_VERSION = f"http.{ROUTES}.rds.{ROUTES}.version_text"
CLUSTERS_VERSION = "cluster_manager.cds.version_text"

STATISTICS_PATH = r"/stats/prometheus?filter=^cluster\.(rest|grpc)-"

Json = dict[str, Any]


def cluster_name(protocol: str, predictor: str) -> str:
    """Return the name of the Envoy cluster with the replicas of a predictor; protocol: REST or GRPC."""
    return f"{protocol}-{predictor}"


def read_weights(routes: Mapping[str, Any]) -> dict[str, int]:
    """Return percent per predictor in a RouteConfiguration; empty while no route has weights.

    Raises ValueError when two routes have different weights, which only a manual change of the file can cause.
    """
    found: dict[str, int] | None = None
    for route in _splits(routes):
        clusters = route["route"]["weighted_clusters"]["clusters"]
        weights = {_predictor(cluster): int(cluster.get("weight", 0)) for cluster in clusters}
        total = sum(weights.values())
        percents = {name: round(100 * weight / total) for name, weight in weights.items()} if total else weights
        if found is not None and percents != found:
            other = f"{weight_words(percents)} in {route['name']}"
            raise ValueError(f"the routes differ: {weight_words(found)}, and {other}")
        found = percents
    return found or {}


def read_mirrors(routes: Mapping[str, Any]) -> dict[str, int]:
    """Return percent of the requests by the predictor that they are copied to; the lowest where routes differ."""
    found: dict[str, int] = {}
    for route in _splits(routes):
        for mirror in route["route"].get("request_mirror_policies", []):
            percent = int(mirror["runtime_fraction"]["default_value"].get("numerator", 0))
            name = str(mirror["cluster"]).partition("-")[2]
            found[name] = min(percent, found.get(name, percent))
    return found


def with_weights(routes: Mapping[str, Any], percents: Mapping[str, int]) -> Json:
    """Return a copy of a RouteConfiguration with these weights; a predictor that is not named gets 0 %.

    Raises ValueError when a predictor with weight has no route, or no predictor has any weight.
    """
    changed = copy.deepcopy(dict(routes))
    known = list(read_weights(changed))
    if not known:
        raise ValueError("nothing is routed yet: no predictor has been ready")
    if missing := [name for name, percent in percents.items() if percent and name not in known]:
        raise ValueError(f"{', '.join(missing)} has weight and no route; predictors with routes: {', '.join(known)}")
    if not any(percents.values()):
        raise ValueError(f"no predictor has any weight: {weight_words(percents)}")
    for route in _splits(changed):
        for cluster in route["route"]["weighted_clusters"]["clusters"]:
            cluster["weight"] = percents.get(_predictor(cluster), 0)
    return changed


def _splits(routes: Mapping[str, Any]) -> Iterator[Json]:
    for host in routes.get("virtual_hosts", []):
        yield from (route for route in host.get("routes", []) if str(route.get("name", "")).startswith(SPLIT))


def _predictor(cluster: Mapping[str, Any]) -> str:
    return str(cluster["name"]).partition("-")[2]


class DiscoveryFile:
    """One file of xDS resources that Envoy watches; its version is a number that increases with each change."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = (directory / "envoy" / f"{name}.json").absolute()
        self._lock = self.path.with_name(".lock")

    def read(self) -> tuple[int, list[Json]]:
        """Return version and resources; 0 and an empty list when the file does not exist."""
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return 0, []
        return int(document["version_info"]), list(document["resources"])

    def replace(self, resources: list[Json]) -> int:
        """Store these resources, and return the new version."""
        return self.change(lambda _: resources)

    def change(self, change: Callable[[list[Json]], list[Json]]) -> int:
        """Replace the resources by the result of `change`, under the lock, and return the new version."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            version, resources = self.read()
            wanted = change(copy.deepcopy(resources))
            if wanted == resources and version:
                return version
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps({"version_info": str(version + 1), "resources": wanted}))
            new.replace(self.path)  # Envoy notices a rename into the directory, and never reads an incomplete file
            return version + 1


def route_file(directory: Path) -> DiscoveryFile:
    """Return the file with a deployment's RouteConfiguration, its only resource; directory: the deployment's state."""
    return DiscoveryFile(directory, "routes")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket. httpx leaves its socket open when nothing listens, and a caller cannot close it."""

    def __init__(self, path: str) -> None:
        super().__init__("envoy", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class EnvoyAdmin:
    """Envoy's admin interface on a unix socket. Every method raises Unavailable when Envoy does not answer."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    def routes(self) -> Json:
        """Return the RouteConfiguration that Envoy uses now; empty while there is none."""
        dump = json.loads(self.get("/config_dump?resource=dynamic_route_configs"))
        return next((dict(one["route_config"]) for one in dump.get("configs", []) if "route_config" in one), {})

    def versions(self) -> dict[str, int]:
        """Return the version of each resource that Envoy has applied, by the name of its statistic."""
        found = json.loads(self.get("/stats?format=json&filter=version_text$"))["stats"]
        return {one["name"]: int(one["value"]) for one in found if str(one.get("value", "")).isdigit()}

    def wait_for(self, wanted: Mapping[str, int], *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until these versions, or later ones, are applied. Raises Unavailable after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            versions = self.versions()
            behind = {name: version for name, version in wanted.items() if versions.get(name, 0) < version}
            if not behind:
                return
            if time.monotonic() > deadline_s:
                have = {name: versions.get(name, 0) for name in behind}
                raise Unavailable(f"Envoy has not applied {behind} within {timeout_s:g} s, it has {have}; see its log")
            time.sleep(POLL_S)

    def statistics(self) -> bytes:
        """Return the page with the statistics of the predictors' clusters, in Prometheus' text format."""
        return self.get(STATISTICS_PATH)

    def active_requests(self) -> int:
        """Return the number of callers' requests in flight."""
        name = f"http.{ROUTES}.downstream_rq_active"
        found = json.loads(self.get(f"/stats?format=json&filter=^{name}$"))["stats"]
        return int(next((one["value"] for one in found if one.get("name") == name), 0))

    def get(self, path: str) -> bytes:
        """Read one page."""
        return self._ask("GET", path)

    def post(self, path: str) -> bytes:
        """Send POST to an admin path such as /drain_listeners."""
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._socket_path)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"Envoy's admin socket {self._socket_path} did not answer {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise Unavailable(f"Envoy answered {method} {path} with {answer.status}: {body.decode().strip()}")
        return body


def route(directory: Path, admin: EnvoyAdmin, percents: Mapping[str, int]) -> None:
    """Write percent per predictor into the routes, and wait until they apply. Raises Rejected or Unavailable."""
    try:
        version = route_file(directory).change(
            lambda resources: [with_weights(resources[0] if resources else {}, percents)]
        )
    except ValueError as error:
        raise Rejected(f"the mesh cannot route {weight_words(percents)}: {error}") from error
    admin.wait_for({ROUTES_VERSION: version})
