"""A Kubernetes API for the real kubectl: the emulator of the rollouts' tests, and what kubectl needs besides.

Added: the resources that the documents name, namespaces that must exist before anything is created in them, server-side
apply, and as much of OpenAPI as says that the server validates fields by itself.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp.web
import attrs
import kmock
from kmock._internal.k8s import KubernetesError

from tests.support.kube_api import KubeApi, kube_api

# group/version/plural -> kind, whether it is in a namespace, and its short names
RESOURCES = {
    "v1/pods": ("Pod", True, ("po",)),
    "v1/secrets": ("Secret", True, ()),
    "v1/services": ("Service", True, ("svc",)),
    "v1/configmaps": ("ConfigMap", True, ("cm",)),
    "v1/serviceaccounts": ("ServiceAccount", True, ("sa",)),
    "v1/events": ("Event", True, ("ev",)),
    "apps/v1/deployments": ("Deployment", True, ("deploy",)),
    "policy/v1/poddisruptionbudgets": ("PodDisruptionBudget", True, ("pdb",)),
    "networking.k8s.io/v1/networkpolicies": ("NetworkPolicy", True, ("netpol",)),
    "rbac.authorization.k8s.io/v1/roles": ("Role", True, ()),
    "rbac.authorization.k8s.io/v1/rolebindings": ("RoleBinding", True, ()),
    "rbac.authorization.k8s.io/v1/clusterroles": ("ClusterRole", False, ()),
    "rbac.authorization.k8s.io/v1/clusterrolebindings": ("ClusterRoleBinding", False, ()),
    "apiextensions.k8s.io/v1/customresourcedefinitions": ("CustomResourceDefinition", False, ("crd",)),
    "machinelearning.seldon.io/v1/seldondeployments": ("SeldonDeployment", True, ("sdep",)),
    "networking.istio.io/v1beta1/virtualservices": ("VirtualService", True, ("vs",)),
    "networking.istio.io/v1beta1/destinationrules": ("DestinationRule", True, ("dr",)),
    "networking.istio.io/v1beta1/gateways": ("Gateway", True, ("gw",)),
    "monitoring.coreos.com/v1/podmonitors": ("PodMonitor", True, ()),
    "monitoring.coreos.com/v1/prometheusrules": ("PrometheusRule", True, ()),
    "coordination.k8s.io/v1/leases": ("Lease", True, ()),
}
NAMESPACES = re.compile(r"/api/v1/namespaces(?:/([^/]+))?")
CREATED = re.compile(r"/api/v1/namespaces/([^/]+)/(\w+)")
PROTOBUF = b"k8s\0"
VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


@attrs.define(kw_only=True)
class DocumentedCluster(KubeApi):
    """The server. It refuses what is created in a namespace that does not exist, as an API server does."""

    namespaces: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    async def __call__(self, raw_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        """Answer what the emulator cannot: the core group's resources, and the namespaces themselves."""
        if raw_request.path == "/api/v1":
            return aiohttp.web.json_response(CORE)
        if (asked := NAMESPACES.fullmatch(raw_request.path)) is not None:
            return await self._namespaces(raw_request, asked[1])
        if (created := CREATED.fullmatch(raw_request.path)) and (await raw_request.read()).startswith(PROTOBUF):
            return self._create(_decoded(await raw_request.read()), namespace=created[1], plural=created[2])
        return await super().__call__(raw_request)

    async def _namespaces(self, request: aiohttp.web.BaseRequest, name: str | None) -> aiohttp.web.StreamResponse:
        if request.method == "GET" and name is None:
            found = {
                "kind": "NamespaceList",
                "apiVersion": "v1",
                "metadata": {},
                "items": list(self.namespaces.values()),
            }
            return aiohttp.web.json_response(found)
        if request.method in ("POST", "PATCH"):
            wanted = _decoded(await request.read())
            name = str(wanted["metadata"]["name"])
            if request.method == "POST" and name in self.namespaces:
                return _failed(409, "AlreadyExists", f'namespaces "{name}" already exists')
            joined = _joined(self.namespaces.get(name, {}), wanted)
            if request.query.get("dryRun") == "All":
                return aiohttp.web.json_response(joined)
            self.namespaces[name] = joined
        if name not in self.namespaces:
            return _failed(404, "NotFound", f'namespaces "{name}" not found')
        return aiohttp.web.json_response(self.namespaces[name])

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        path = str(request.url.path)
        if path == "/openapi/v3":
            return aiohttp.web.json_response(
                {"paths": {api: {"serverRelativeURL": f"/openapi/v3/{api}"} for api in _apis()}}
            )
        if path.startswith("/openapi/v3/"):
            return aiohttp.web.json_response(_openapi(path.removeprefix("/openapi/v3/")))
        if path.endswith("/log"):
            return aiohttp.web.Response(text="churn-serving cannot start: no bundle at /mnt/models\n")
        method = request.method.value.upper()
        plural = request.resource.plural if request.resource else None
        if method == "GET" and plural and not request.name and request.params.get("watch") != "true":
            return self._list(request)
        if method in ("POST", "PATCH") and request.resource and request.namespace:
            self._require_namespace(str(request.namespace))
        if method == "PATCH" and "apply-patch" in request.headers.get("Content-Type", ""):
            return await self._apply(request)
        return await super()._handle(request)

    def _list(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        """Return a list that has a kind, which kubectl asks for."""
        assert request.resource is not None
        group_version = f"{request.resource.group}/{request.resource.version}".removeprefix("/")
        named = request.params.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [
            stored.raw
            for (resource, namespace, name), stored in self.objects.items()
            if resource == request.resource and request.namespace in (None, namespace) and named in ("", name)
            if not stored.deleted
        ]
        kind = ALL[f"{group_version}/{request.resource.plural}"][0]
        found = {
            "kind": f"{kind}List",
            "apiVersion": group_version,
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }
        return aiohttp.web.json_response(found)

    def _create(self, wanted: dict[str, Any], *, namespace: str, plural: str) -> aiohttp.web.StreamResponse:
        if namespace not in self.namespaces:
            return _failed(404, "NotFound", f'namespaces "{namespace}" not found')
        wanted["metadata"] |= {"namespace": namespace, "resourceVersion": str(next(self._versions))}
        self.objects[f"v1/{plural}", namespace, wanted["metadata"]["name"]] = wanted
        return aiohttp.web.json_response(wanted, status=201)

    def _require_namespace(self, name: str) -> None:
        if name not in self.namespaces:
            raise KubernetesError(status=404, reason="NotFound", message=f'namespaces "{name}" not found')

    async def _apply(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        wanted = json.loads(request.body)
        key: Any = (request.resource, request.namespace, request.name)
        stored = copy.deepcopy(self.objects[key].raw) if key in self.objects and not self.objects[key].deleted else {}
        applied = _joined(stored, wanted)
        applied["metadata"].setdefault("uid", f"uid-{request.name}")
        applied["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        if request.namespace:
            applied["metadata"].setdefault("namespace", request.namespace)
        if request.params.get("dryRun") != "All" and applied != stored:
            if applied["kind"] == "SeldonDeployment":
                self._admit(applied, strict=True)
                self.written.append(copy.deepcopy(applied))
            applied["metadata"]["resourceVersion"] = str(next(self._versions))
            applied["metadata"]["generation"] = stored.get("metadata", {}).get("generation", 0) + 1
            self.objects[key] = applied
        return aiohttp.web.json_response(applied, status=200 if stored else 201)


def _decoded(body: bytes) -> dict[str, Any]:
    """Return a created Namespace or Secret; kubectl sends those as protobuf, in an envelope with their kind."""
    if not body.startswith(PROTOBUF):
        return dict(json.loads(body))
    envelope = _fields(body[len(PROTOBUF) :])
    type_meta, content = _fields(envelope[1][0]), _fields(envelope[2][0])
    entries = [_fields(entry) for entry in content.get(2, [])] if type_meta[2][0] == b"Secret" else []
    return {
        "apiVersion": type_meta[1][0].decode(),
        "kind": type_meta[2][0].decode(),
        "metadata": {"name": _fields(content[1][0])[1][0].decode()},
        "data": {entry[1][0].decode(): base64.b64encode(entry[2][0]).decode() for entry in entries},
    }


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Return the fields of a protobuf message that are bytes, by number."""
    found: dict[int, list[bytes]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        length, place = _varint(message, place)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(message[place : place + length])
            place += length
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _failed(code: int, reason: str, message: str) -> aiohttp.web.StreamResponse:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return aiohttp.web.json_response({**status, "message": message}, status=code)


def _joined(stored: Any, wanted: Any) -> Any:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return {**stored, **{key: _joined(stored.get(key), value) for key, value in wanted.items()}}
    return wanted


def _apis() -> list[str]:
    return sorted(
        {f"apis/{api}" if "/" in api else f"api/{api}" for api in (name.rpartition("/")[0] for name in RESOURCES)}
    )


ALL = {"v1/namespaces": ("Namespace", False, ("ns",)), **RESOURCES}
CORE = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "v1",
    "resources": [
        {"name": name.removeprefix("v1/"), "kind": kind, "singularName": kind.lower(), "shortNames": short,
         "namespaced": namespaced, "verbs": VERBS}
        for name, (kind, namespaced, short) in ALL.items()
        if name.count("/") == 1
    ],
}  # fmt: skip


def _openapi(api: str) -> dict[str, Any]:
    group_version = api.partition("/")[2]
    group, _, version = group_version.rpartition("/")
    validated = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    return {
        "openapi": "3.0.0",
        "info": {"title": "stand-in", "version": "v1"},
        "paths": {
            f"/{api}/{name.rpartition('/')[2]}/{{name}}": {
                "patch": {
                    "parameters": validated,
                    "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
                }
            }
            for name, (kind, _, _) in ALL.items()
            if name.rpartition("/")[0] == group_version
        },
    }


@contextmanager
def documented_cluster(directory: Path) -> Iterator[tuple[DocumentedCluster, Path]]:
    """Serve on a free port; gives the server and a KUBECONFIG. The namespaces of Seldon, Istio and Prometheus exist."""
    api = DocumentedCluster()
    with kube_api(directory, api) as (_, kubeconfig):
        for resource, (kind, namespaced, short) in RESOURCES.items():
            api.resources[resource] = {
                "kind": kind, "singular": kind.lower(), "namespaced": namespaced, "verbs": VERBS, "shortnames": short,
                "categories": (), "subresources": ("status",) if kind == "SeldonDeployment" else (),
            }  # fmt: skip
        for name in ("default", "istio-system", "seldon-system", "monitoring"):
            api.namespaces[name] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        yield api, kubeconfig
