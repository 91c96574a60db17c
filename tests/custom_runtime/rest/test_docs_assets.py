"""The page's files come from the wheel, are found by relative addresses only, and are read on the first hit."""

import re
import subprocess
import sys
from typing import Any
from urllib.parse import urljoin

import pytest

from custom_runtime.rest.swagger_ui import docs_asset


def shipped(path: str) -> tuple[bytes, str]:
    """Return a file that must be there."""
    found = docs_asset(path)
    assert found is not None
    return found


def addresses(page: Any) -> Any:
    return re.findall(r'(?:src|href|data-openapi)="([^"]*)"', page)


@pytest.mark.parametrize("page_path", ["/docs", "/docs/"])
def test_every_address_of_the_page_is_relative_and_answers(page_path: str) -> None:
    body, content_type = shipped(page_path)
    assert content_type == "text/html; charset=utf-8"
    found = []
    for address in addresses(body.decode()):
        assert "//" not in address
        assert not address.startswith("/")
        found.append(urljoin(f"http://host{page_path}", address).removeprefix("http://host"))
    assert "/openapi.json" in found
    files = [path for path in found if path.startswith("/docs/")]
    assert len(files) == 3
    for path in files:
        assert shipped(path)[0]


def test_page_holds_no_inline_script() -> None:
    page = shipped("/docs")[0].decode()
    assert page.count("<script") == page.count("<script src=")


def test_shipped_script_is_swagger_ui_5_which_reads_openapi_3_1() -> None:
    script = shipped("/docs/swagger-ui-bundle.js")[0]
    assert re.search(rb'PACKAGE_VERSION:"5\.\d+\.\d+"', script)


@pytest.mark.parametrize(
    "path", ["/docs/other.js", "/docs/../bundle.json", "/docs//etc/passwd", "/docs/redoc.standalone.js", "/", "/docsx"]
)
def test_other_paths_find_nothing(path: str) -> None:
    assert docs_asset(path) is None


def test_nothing_is_read_or_imported_before_the_first_hit() -> None:
    code = (
        "import sys, custom_runtime.rest.swagger_ui as d;"
        "print('fastapi' in sys.modules, d._shipped.cache_info().currsize)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "0"]
