"""The documentation as a site: built strictly, within reach, without requests to other hosts, readable on a phone."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.support.programs import GUARD_S, ROOT, eventually, program

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
        ["make", "--silent", "docs"], cwd=ROOT, capture_output=True, text=True, timeout=GUARD_S, check=False
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


def test_a_list_of_the_source_is_a_list_on_the_page(site: Path) -> None:
    """Python-Markdown takes "- " right below a paragraph as more of the paragraph; GitHub does not."""
    paragraphs = {page: re.findall(r"<p>(.*?)</p>", page.read_text(), re.DOTALL) for page in site.rglob("*.html")}
    assert [
        (page.name, text[:60])
        for page, texts in paragraphs.items()
        for text in texts
        if re.search(r"\n(?:-|1\.) ", text)
    ] == []


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


PHONE_WIDTH = 390
# What a reader of one page meets: its width, its scheme, pictures that did not load, how well the text can be seen.
LOOK = """
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255).map(
    c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const [text, page] = ['color', 'backgroundColor'].map(name => luminance(getComputedStyle(document.body)[name]));
return {
  width: document.documentElement.scrollWidth,
  scheme: document.body.dataset.mdColorScheme,
  broken: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
  contrast: (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05),
};
"""


class Files(SimpleHTTPRequestHandler):
    """Serves a directory, and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Serve the site on loopback; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser as wide as a phone, that finds no other host."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = Service(program("chromedriver", package="chromium-driver"))
    opened = webdriver.Chrome(options=options, service=driver)
    opened.set_page_load_timeout(GUARD_S)
    # Not `mobile`: that zooms out until everything fits, and a page that is too wide would not be noticed.
    size = {"width": PHONE_WIDTH, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield opened
    opened.quit()


def has_scheme(scheme: str) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: seen["scheme"] == scheme


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone_in_either_scheme(
    site: Path, address: str, phone: webdriver.Chrome
) -> None:
    wrong = []
    for page in sorted(str(file.relative_to(site)) for file in site.rglob("*.html")):
        phone.get(f"{address}/{page}")
        for wanted, scheme in (("light", "default"), ("dark", "slate")):  # the page follows the system's scheme
            preference = {"features": [{"name": "prefers-color-scheme", "value": wanted}]}
            phone.execute_cdp_cmd("Emulation.setEmulatedMedia", preference)
            seen = eventually(  # the event of the change comes with the browser's next frame
                lambda: dict(phone.execute_script(LOOK)), has_scheme(scheme), what=f"{page} is not {wanted}"
            )
            if seen["width"] > PHONE_WIDTH or seen["broken"] or seen["contrast"] < 4.5:
                wrong.append((page, wanted, seen))
    assert wrong == []
