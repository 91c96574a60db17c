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


class Links(HTMLParser):
    """The links of a page, and the names that links may point at."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = {""}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.update(name for name in (given.get("id"), given.get("name")) if name)
        if tag == "a" and (address := given.get("href")) is not None:
            self.links.append(address)


def test_every_link_within_the_site_leads_somewhere(site: Path) -> None:
    pages: dict[Path, Links] = {}
    for page in site.rglob("*.html"):
        pages[page.resolve()] = parser = Links()
        parser.feed(page.read_text())
    broken = []
    for page, parser in pages.items():
        for link in parser.links:
            path, _, name = link.partition("#")
            if page.name == "404.html" or re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (target in pages and name not in pages[target].names):
                broken.append(f"{page.relative_to(site.resolve())}: {link}")
    assert broken == []


def test_the_comparison_is_the_readmes(site: Path) -> None:
    page = (site / "why.html").read_text()
    assert "who moves the weight of a canary" in page
    assert "The README" not in page


def test_a_flowchart_is_a_drawing_and_needs_no_script(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert page.count('<div class="drawing"><svg') == 3
    assert "mermaid" not in page


def test_a_flowchart_with_a_circle_is_as_high_as_its_way_down(site: Path) -> None:
    page = (site / "how-it-works.html").read_text()
    heights = [float(height) for height in re.findall(r'<svg viewBox="0 0 [\d.]+ ([\d.]+)"', page)]
    assert len(heights) == 2
    assert max(heights) < 500


def test_every_page_is_reached_from_the_first_one(site: Path) -> None:
    first = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        place = site / "adr" / "index.html" if str(name).startswith("adr/0") else None
        assert (name.name if place else f'"{name}"') in (place.read_text() if place else first), name


def test_pictures_are_small_whole_and_used() -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert len(pictures) >= 7
    for picture in pictures:
        assert picture.stat().st_size < 200_000, picture
        assert f"pictures/{picture.name})" in pages, picture
        if picture.suffix == ".svg":
            assert not re.search(r"https?://(?!www\.w3\.org|www\.textualize\.io)|\ufffd", picture.read_text()), picture
