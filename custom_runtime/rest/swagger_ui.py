"""The page at `/docs`: Swagger UI from a wheel, read from disk at the first request.

Every address is relative, so that the page works below `/seldon/<namespace>/<name>/`; it holds no inline script,
so that it works under CONTENT_SECURITY_POLICY, which lets it load from and talk to its own server only.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from custom_runtime.rest.openapi import build_openapi

__all__ = ["CONTENT_SECURITY_POLICY", "build_openapi", "docs_asset"]

# Swagger UI draws its icons from data: addresses and sets style attributes while it runs.
CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"

ROOT = "/docs"
DISTRIBUTION = "fastapi_offline"  # ships Swagger UI's files; none of its code is imported
SHIPPED = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model server</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{assets}swagger-ui.css">
</head>
<body>
<div id="swagger-ui" data-openapi="{openapi}"></div>
<script src="{assets}swagger-ui-bundle.js"></script>
<script src="{assets}start.js"></script>
</body>
</html>
"""

START = """"use strict";
const page = document.getElementById("swagger-ui");
window.ui = SwaggerUIBundle({
  url: page.dataset.openapi,
  domNode: page,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  syntaxHighlight: { theme: "idea" },
  validatorUrl: null,
});
"""


def docs_asset(path: str) -> tuple[bytes, str] | None:
    """Return the body and the content type of `/docs`, `/docs/` or a file below it; None: there is no such file."""
    if path == ROOT:
        return _page(assets="docs/", openapi="openapi.json")
    if path == f"{ROOT}/":
        return _page(assets="", openapi="../openapi.json")
    name = path.removeprefix(f"{ROOT}/")
    if name == "start.js":
        return START.encode(), SHIPPED["swagger-ui-bundle.js"]
    # Only the names in the table reach the disk: a path such as /docs/../bundle.json finds nothing.
    return (_shipped(name), SHIPPED[name]) if name in SHIPPED else None


def _page(*, assets: str, openapi: str) -> tuple[bytes, str]:
    return PAGE.format(assets=assets, openapi=openapi).encode(), "text/html; charset=utf-8"


@cache
def _shipped(name: str) -> bytes:
    package = find_spec(DISTRIBUTION)
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            f"{DISTRIBUTION} is not installed, so /docs cannot be drawn; install churn-serving[serve]"
        )
    return (Path(package.submodule_search_locations[0]) / "static" / name).read_bytes()
