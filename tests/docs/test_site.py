"""The documentation as a site: built strictly, every page within reach, and no request to another host."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.programs import ROOT

# What a browser fetches by itself when it shows a page, unlike a link that a reader follows.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
NOT_FETCHED = {"canonical", "alternate", "next", "prev", "edit"}


class Fetches(HTMLParser):
    """The addresses that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in FETCHED and given.get("rel") not in NOT_FETCHED and (address := given.get(FETCHED[tag])):
            self.found.append(address)


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run(
        ["make", "--silent", "docs"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "var" / "site"


def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    built = list(site.rglob("*.html"))
    assert len(built) > 30
    for page in built:
        parser = Fetches()
        parser.feed(page.read_text())
        assert len(parser.found) > 3, page
        assert [one for one in parser.found if "//" in one] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style


def test_a_flowchart_is_a_drawing_and_needs_no_script(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert page.count('<div class="drawing"><svg') == 3
    assert "mermaid" not in page


def test_every_page_is_reached_from_the_first_one(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        place = site / "adr" / "index.html" if str(name).startswith("adr/0") else None
        assert (name.name if place else f'"{name}"') in (place.read_text() if place else first), name
