"""What mkdocs does beside rendering: it draws the flowcharts of the pages as SVG, so that no page loads a script.

A picture is layered: a node stands one layer below the lowest of those that point at it. Colours are CSS variables of
the theme, for both schemes.
"""

from __future__ import annotations

import html
import re
from itertools import pairwise, product
from pathlib import Path
from typing import Any

FENCE = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
DOCS = Path(__file__).parent
ADR = DOCS / "adr"
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(#[^)]*)?\)")
PICTURE = re.compile(r"^!\[[^\]]+\]\(([^)]+)\)$", re.MULTILINE)  # opens in full size: a phone shows it small
COMPARISON = re.compile(r"^\[The README's table\].*\n", re.MULTILINE)
WIDTH, HEIGHT, GAP_X, GAP_Y = 132, 34, 18, 44
SMALLEST = 0.75  # on a phone a drawing shrinks so far, then it scrolls: its text stays readable


def on_config(config: Any) -> Any:
    """Put pages that `nav` does not name behind it, so that none is out of reach."""
    named = set(_pages(config.nav))
    written = (str(file.relative_to(ADR.parent)) for file in sorted(ADR.parent.rglob("*.md")))
    more = [page for page in written if page not in named and not page.startswith("adr/")]
    config.nav = [*config.nav, *([{"More": more}] if more else [])]
    return config


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    members = entry.values() if isinstance(entry, dict) else entry or ()
    return [page for member in members for page in _pages(member)]


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Replace each flowchart by its drawing, and what the site lacks by words; list the decisions on their page."""
    if page.file.src_uri == "adr/index.md":
        markdown += "".join(f"- [{_title(file)}]({file.name})\n" for file in sorted(ADR.glob("0*.md")))
    elif page.file.src_uri.startswith("adr/"):  # `nav` does not name them, so no menu leads back
        markdown += "\n\n[All decisions](index.md)\n"
    if page.file.src_uri == "why.md":
        markdown = COMPARISON.sub(lambda _: _comparison(), markdown)
    markdown = LINK.sub(lambda found: _link(page.file.src_uri, found), markdown)
    markdown = PICTURE.sub(r"[\g<0>](\1)", markdown)
    return FENCE.sub(lambda found: drawing(found[1]), markdown)


def _comparison() -> str:
    """Return the README's comparison with other servers, its links as they are from docs/."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## What it has that others leave to you\n")[2].partition("\n## ")[0]
    if not section:
        raise ValueError("README.md has no section: What it has that others leave to you")
    return section.replace("](docs/", "](")


def _link(page: str, found: re.Match[str]) -> str:
    """Return a link as it is, or, where it leaves docs/, its words and the path in the repository."""
    target = (DOCS / page).parent.joinpath(found[2]).resolve()
    if target.is_relative_to(DOCS):
        return found[0]
    return f"{found[1]} (`{target.relative_to(DOCS.parent)}`)"


def _title(file: Path) -> str:
    return file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def drawing(text: str) -> str:
    """Return the SVG of a flowchart whose lines are `a & b-1 --> c & d`. Raises ValueError for anything else."""
    first, *lines = filter(None, map(str.strip, text.splitlines()))
    if first != "flowchart TD":
        raise ValueError(f"a flowchart begins with {first!r}; allowed: flowchart TD")
    edges: list[tuple[str, str]] = []
    for line in lines:
        sources, arrow, targets = line.partition("-->")
        if not arrow:
            raise ValueError(f"a flowchart has the line {line!r}; allowed: a & b --> c & d")
        edges += product(_names(sources), _names(targets))
    layers = _layers(edges)
    columns = max(len(layer) for layer in layers)
    width = columns * (WIDTH + GAP_X) + GAP_X
    height = len(layers) * (HEIGHT + GAP_Y) - GAP_Y + 2 * GAP_X
    places = {
        node: (
            (width - len(layer) * (WIDTH + GAP_X) + GAP_X) / 2 + column * (WIDTH + GAP_X) + WIDTH / 2,
            GAP_X + row * (HEIGHT + GAP_Y) + HEIGHT / 2,
        )
        for row, layer in enumerate(layers)
        for column, node in enumerate(layer)
    }
    parts = [_edge(*places[source], *places[target]) for source, target in edges]
    parts += [_node(node, *place) for node, place in places.items()]
    names = html.escape(", ".join(f"{source} to {target}" for source, target in edges), quote=True)
    return (
        f'<div class="drawing"><svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{names}" '
        f'style="width: {width:g}px; min-width: {SMALLEST * width:g}px" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg></div>'
    )


def _names(side: str) -> list[str]:
    names = [name.strip() for name in side.split("&")]
    if wrong := [name for name in names if not re.fullmatch(r"[\w-]+", name)]:
        raise ValueError(f"a flowchart has the node {wrong[0]!r}; allowed: letters, digits, _ and -")
    return names


def _layers(edges: list[tuple[str, str]]) -> list[list[str]]:
    nodes = list(dict.fromkeys(node for edge in edges for node in edge))
    forward: list[tuple[str, str]] = []
    for edge in edges:  # one that closes a circle points up, and places nothing
        if not _leads(forward, edge[1], edge[0]):
            forward.append(edge)
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for source, target in forward:
            depth[target] = max(depth[target], depth[source] + 1)
    layers = [[node for node in nodes if depth[node] == level] for level in range(max(depth.values()) + 1)]
    for above, layer in pairwise(layers):
        order = {node: place for place, node in enumerate(above)}
        means = {
            node: _mean([order[source] for source, target in edges if target == node and source in order])
            for node in layer
        }
        layer.sort(key=means.__getitem__)
    return layers


def _leads(edges: list[tuple[str, str]], start: str, end: str) -> bool:
    reached = [start]
    for node in reached:
        reached += [target for source, target in edges if source == node and target not in reached]
    return end in reached


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _edge(x1: float, y1: float, x2: float, y2: float) -> str:
    if y2 < y1:
        return _upward_edge(x1, y1, x2, y2)
    top, bottom = y1 + HEIGHT / 2, y2 - HEIGHT / 2
    middle = (top + bottom) / 2
    line = f"M{x1:g},{top:g} C{x1:g},{middle:g} {x2:g},{middle:g} {x2:g},{bottom - 5:g}"
    head = f"M{x2 - 4:g},{bottom - 7:g} L{x2:g},{bottom:g} L{x2 + 4:g},{bottom - 7:g} Z"
    return f'<path class="line" d="{line}"/><path class="head" d="{head}"/>'


def _upward_edge(x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw the way back beside the way down: from the left part of the lower node."""
    x1, x2, top, bottom = x1 - WIDTH / 4, x2 - WIDTH / 4, y2 + HEIGHT / 2, y1 - HEIGHT / 2
    middle = (top + bottom) / 2
    line = f"M{x1:g},{bottom:g} C{x1:g},{middle:g} {x2:g},{middle:g} {x2:g},{top + 5:g}"
    head = f"M{x2 - 4:g},{top + 7:g} L{x2:g},{top:g} L{x2 + 4:g},{top + 7:g} Z"
    return f'<path class="line" d="{line}"/><path class="head" d="{head}"/>'


def _node(name: str, x: float, y: float) -> str:
    box = f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    return f'{box}<text x="{x:g}" y="{y + 4.5:g}">{html.escape(name)}</text>'
