"""docs/architecture.md against the code: rooms, imports between rooms, named files and functions."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import ROOT

MAP = "docs/architecture.md"
TEXT = (ROOT / MAP).read_text()
PACKAGES = ("custom_runtime", "handoff", "rollout", "local_seldon", "benchmarks", "image")
DRAWN_ROOMS = ("custom_runtime", "rollout")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:::([\w.]+))?`", TEXT)))


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def arrows(title: str) -> set[tuple[str, str]]:
    """The arrows of a section's picture: "a & b --> c & d" are four."""
    (picture,) = re.findall(r"```mermaid\n(.*?)```", section(title), re.DOTALL)
    drawn = set()
    for line in picture.splitlines():
        if "-->" in line:
            sources, targets = line.split("-->")
            drawn |= set(itertools.product(re.findall(r"\w+", sources), re.findall(r"\w+", targets)))
    return drawn


def reachable(start: str, drawn: set[tuple[str, str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        source = waiting.pop()
        waiting += [target for origin, target in drawn if origin == source and target not in found]
        found |= {target for origin, target in drawn if origin == source}
    return found


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def package_imports() -> dict[tuple[str, str], str]:
    """(package, imported package) -> a file that imports it."""
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for module in imported_modules(file):
                target = module.split(".")[0]
                if target in PACKAGES and target != package:
                    found[package, target] = str(file.relative_to(ROOT))
    return found


def room_imports(package: str) -> dict[tuple[str, str], str]:
    """(room, imported room) -> a file that imports it; a module at the package's root is a room of its own."""
    found = {}
    for file in (ROOT / package).rglob("*.py"):
        room = file.relative_to(ROOT / package).with_suffix("").parts[0]
        for module in imported_modules(file):
            target = module.split(".")[1] if module.startswith(f"{package}.") else room
            if target != room:
                found[room, target] = str(file.relative_to(ROOT))
    return found


def rooms(package: str) -> set[str]:
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
    return folders | modules if package in DRAWN_ROOMS else folders


def listed_rooms(package: str) -> set[str]:
    if package in DRAWN_ROOMS:
        return set(re.findall(r"^\| `(\w+)` \|", section(f"The rooms of `{package}`"), re.MULTILINE))
    return set(re.findall(rf"^\| `{package}` \| `(\w+)` \|", section("The rooms of the other packages"), re.MULTILINE))


def defined(tree: ast.Module, name: str) -> bool:
    body: list[ast.stmt] = tree.body
    for part in name.split("."):
        found = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
        ]
        if not found:
            return False
        body = found[0].body
    return True


def test_every_package_is_listed() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("Packages"), re.MULTILINE)) == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_listed_and_no_other(package: str) -> None:
    assert listed_rooms(package) == rooms(package), f"bring the table of {package} in {MAP} up to date"


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_named_file_and_function_exists(path: str, name: str) -> None:
    # A file may be named by its room, as in `prediction/predictor.py`.
    file = next((found for found in (ROOT / path, ROOT / "custom_runtime" / path) if found.is_file()), None)
    assert file is not None, f"{MAP} names {path}, which does not exist"
    assert not name or defined(ast.parse(file.read_text()), name), f"{MAP} names {name}, which {path} does not define"


@pytest.mark.parametrize("title", ["Packages", *(f"The rooms of `{package}`" for package in DRAWN_ROOMS)])
def test_the_pictures_show_the_imports(title: str) -> None:
    drawn = arrows(title)
    imported = package_imports() if title == "Packages" else room_imports(title.split("`")[1])
    assert drawn <= imported.keys(), f"drawn, but not imported: {drawn - imported.keys()}"
    missing = {edge: file for edge, file in imported.items() if edge[1] not in reachable(edge[0], drawn)}
    assert not missing, f"imported, but no arrow leads there: {missing}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_and_room_says_what_it_holds(package: str) -> None:
    folders = [ROOT / package, *(path.parent for path in (ROOT / package).glob("*/__init__.py"))]
    for folder in folders:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert docstring, f"{folder.name}/__init__.py has no docstring"
        assert "mport" in docstring, f"{folder.name}/__init__.py does not say what it may import"
