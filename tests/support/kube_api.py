"""A Kubernetes API over HTTP for tests: kmock, plus what it leaves out.

Added here: resourceVersion and its 409, JSON Patch with `test` (422), the status subresource, dryRun, strict field
validation as far as the SeldonDeployment's own fields go, the operator's webhook, watch events of every write, and
faults on demand.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp.web
import attrs
import kmock
import yaml
from kmock._internal.k8s import KubernetesError

from rollout.errors import Conflict, ManifestError, Rejected
from rollout.manifest.parsing import parse
from rollout.manifest.webhook_rules import webhook
from rollout.targets.local_store import apply
from tests.support.programs import GUARD_S

PREDICTOR_FIELDS = {
    "name", "graph", "componentSpecs", "traffic", "replicas", "shadow", "annotations", "labels", "engineResources",
    "svcOrchSpec", "explainer", "ssl", "progressDeadlineSeconds",
}  # fmt: skip


REMEMBERED = 20
INJECTED = "Injected"
END: Any = {"type": "END", "object": {"metadata": {"namespace": "models"}}}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
WEBHOOK = '"v1.vseldondeployment.kb.io"'


@attrs.define(kw_only=True)
class KubeApi(kmock.KubernetesEmulator):
    """The server. fault: asked for each request (method, plural, name); what it returns is answered instead.

    webhook_dead: the operator does not answer, and its webhook has failurePolicy Fail: no SeldonDeployment changes.
    """

    fault: Callable[[str, str, str], tuple[int, str] | None] = attrs.field(default=lambda method, plural, name: None)
    webhook_dead: bool = attrs.field(default=False)
    written: list[dict[str, Any]] = attrs.field(factory=list)
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.new_event_loop)
    _versions: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    def end_watches(self, resource: str) -> None:
        """End all streams of a resource, such as apps/v1/deployments, as an API server does every few minutes."""
        (bus,) = (bus for one, bus in self._buses.items() if f"{one.group}/{one.version}/{one.plural}" == resource)
        asyncio.run_coroutine_threadsafe(bus.put(END), self.loop).result(GUARD_S)

    async def _serve_watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        async for event in super()._serve_watch(request):
            if event is END:
                return
            yield event

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        del self._requests[:-REMEMBERED]  # kmock filters all requests that it ever saw, for each new one
        method = request.method.value.upper()
        plural = str(request.resource.plural) if request.resource else ""
        if plural and (answer := self.fault(method, plural, str(request.name))):
            raise KubernetesError(status=answer[0], reason=INJECTED, message=answer[1])
        if not plural or method not in ("POST", "PUT", "PATCH"):
            return await super()._handle(request)
        key: Any = (request.resource, request.namespace, request.name or request.data["metadata"]["name"])
        stored = self._raw(key) if key in self.objects and not self.objects[key].deleted else None
        changed = self._changed(method, stored, request)
        if request.subresource == "status":
            changed = {**(stored or {}), "status": changed.get("status")}
        elif plural == "seldondeployments":
            changed["status"] = (stored or {}).get("status") or {}
            if self.webhook_dead:
                message = f"Internal error occurred: failed calling webhook {WEBHOOK}: connection refused"
                raise KubernetesError(status=500, reason="InternalError", message=message)
            self._admit(changed, strict=request.params.get("fieldValidation") == "Strict")
        if request.params.get("dryRun") != "All" and changed != stored:
            changed["metadata"]["resourceVersion"] = str(next(self._versions))
            if changed.get("spec") != (stored or {}).get("spec"):
                changed["metadata"]["generation"] = (stored or changed)["metadata"].get("generation", 0) + 1
            self.objects[key] = changed
            event = {"type": "ADDED" if stored is None else "MODIFIED", "object": copy.deepcopy(changed)}
            await self._buses[key[0]].put(event)
            if plural == "seldondeployments" and request.subresource != "status":
                self.written.append(copy.deepcopy(changed))
        return aiohttp.web.json_response(changed, status=201 if method == "POST" else 200)

    def _changed(self, method: str, stored: dict[str, Any] | None, request: kmock.Request) -> dict[str, Any]:
        if method == "POST":
            if stored is not None:
                raise KubernetesError(status=409, reason="AlreadyExists", message="an object of that name exists")
            created = copy.deepcopy(request.data)
            created["metadata"].setdefault("namespace", request.namespace)
            created["metadata"]["uid"] = f"uid-{created['metadata']['name']}"
            return created
        if stored is None:
            raise KubernetesError(status=404, reason="NotFound", message=f'"{request.name}" not found')
        return self._replaced(stored, request.data) if method == "PUT" else self._patched(stored, request)

    def _raw(self, key: Any) -> dict[str, Any]:
        return copy.deepcopy(self.objects[key].raw)

    @staticmethod
    def _replaced(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        version = wanted["metadata"].get("resourceVersion")
        if version and version != stored["metadata"]["resourceVersion"]:
            raise KubernetesError(
                status=409, reason="Conflict", message="the object has been modified; please apply your changes to it"
            )
        return copy.deepcopy(wanted)

    @staticmethod
    def _patched(stored: dict[str, Any], request: kmock.Request) -> dict[str, Any]:
        content_type = request.headers.get("Content-Type", "")
        if content_type.startswith("application/merge-patch+json"):
            return _merged(stored, request.data)
        if not content_type.startswith("application/json-patch+json"):
            raise KubernetesError(status=415, reason="UnsupportedMediaType", message=f"not served: {content_type}")
        try:
            return apply(stored, request.data)
        except (Conflict, Rejected) as error:
            raise KubernetesError(status=422, reason="Invalid", message=f"the server rejected: {error}") from error

    @staticmethod
    def _admit(changed: dict[str, Any], *, strict: bool) -> None:
        unknown = {field for predictor in changed["spec"]["predictors"] for field in predictor} - PREDICTOR_FIELDS
        if strict and unknown:
            raise KubernetesError(
                status=400, reason="BadRequest", message=f'strict decoding error: unknown field "{unknown.pop()}"'
            )
        try:
            refused = [finding.message for finding in webhook(parse(changed)) if finding.severity == "error"]
        except ManifestError as error:
            refused = [str(error)]
        if refused:
            raise KubernetesError(status=422, reason="Invalid", message="; ".join(refused))


def _merged(stored: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(stored) if isinstance(stored, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


@contextmanager
def kube_api(directory: Path, api: KubeApi | None = None) -> Iterator[tuple[KubeApi, Path]]:
    """Serve on a free port in a thread; gives the server and a KUBECONFIG for it. api: in place of a new one."""
    api = KubeApi() if api is None else api
    loop = api.loop
    for resource, kind in (
        ("machinelearning.seldon.io/v1/seldondeployments", "SeldonDeployment"),
        ("networking.istio.io/v1beta1/virtualservices", "VirtualService"),
        ("networking.istio.io/v1beta1/destinationrules", "DestinationRule"),
        ("apps/v1/deployments", "Deployment"),
        ("v1/pods", "Pod"),
        # kopf asks which resources there are, and waits without a word until it has found these two.
        ("v1/namespaces", "Namespace"),
        ("apiextensions.k8s.io/v1/customresourcedefinitions", "CustomResourceDefinition"),
        ("coordination.k8s.io/v1/leases", "Lease"),
        ("events.k8s.io/v1/events", "Event"),
    ):
        api.resources[resource] = {
            "kind": kind, "singular": kind.lower(), "namespaced": True, "verbs": VERBS, "shortnames": (),
            "categories": (), "subresources": ("status",) if kind in ("SeldonDeployment", "Deployment") else (),
        }  # fmt: skip
    started, stopping = threading.Event(), asyncio.Event()
    url = ""

    async def serve() -> None:
        nonlocal url
        async with api, kmock.Server(api) as server:
            url = str(server.url).rstrip("/")
            started.set()
            await stopping.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(GUARD_S), "the API stand-in did not start"
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "stand-in", "cluster": {"server": url}}],
                "users": [{"name": "promoter", "user": {"token": "t"}}],
                "contexts": [
                    {"name": "c", "context": {"cluster": "stand-in", "user": "promoter", "namespace": "models"}}
                ],
                "current-context": "c",
            }
        )
    )
    try:
        yield api, kubeconfig
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(GUARD_S)
        loop.close()
