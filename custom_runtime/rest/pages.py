"""The GET pages for probes and people: health, readiness, OpenAPI, the Swagger page."""

from __future__ import annotations

import orjson

from custom_runtime.active import CONTRACT
from custom_runtime.errors import ServingError
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.asgi import Answer, error_answer
from custom_runtime.rest.swagger_ui import CONTENT_SECURITY_POLICY, build_openapi, docs_asset

_CSP = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())


class Pages:
    """Answers GET requests that are not MLServer's."""

    def __init__(self, models: LoadedModels, *, docs: bool, root_path: str = "") -> None:
        self._models = models
        self._docs = docs
        self._root_path = root_path

    def get(self, path: str) -> Answer | None:
        """Return the answer for a path; None: it is not one of these pages."""
        if path == "/v2/health/live":
            return Answer(200, b"{}")
        if path == "/" and self._docs:
            return Answer(307, b"", ((b"location", f"{self._root_path}/docs".encode()),))
        if path == "/v2/health/ready":
            return self._readiness()
        parts = path.split("/")
        match parts:
            case ["", "v2", "models", name, "ready"]:
                return self._readiness(name)
            case ["", "v2", "models", name, "versions", version, "ready"]:
                return self._readiness(name, version)
            case ["", "openapi.json"] if self._docs:
                return self._openapi()
            case ["", "docs", *_] if self._docs:
                asset = docs_asset(path)
                return asset and Answer(200, asset[0], ((b"content-type", asset[1].encode()), _CSP))
        return None

    def _readiness(self, name: str | None = None, version: str | None = None) -> Answer | None:
        if self._models.is_foreign(name):
            return None
        try:
            self._models.check_ready(name, version)
        except ServingError as error:
            return error_answer(error)
        return Answer(200, b"{}")

    def _openapi(self) -> Answer:
        names = self._models.names() or [CONTRACT.name]
        try:
            version = self._models.find().version
        except ServingError:
            version = "loading"
        return Answer(200, orjson.dumps(build_openapi(names[0], str(version))))
