"""docs/reference is what the code says: each page is generated and compared; `make reference` writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from commands.reference import PAGES
from custom_runtime.settings import ServingSettings
from tests.support.commands import leaves
from tests.support.programs import GUARD_S, ROOT

DIRECTORY = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process of its own, as `make reference`: metrics of other tests are in this one's registry."""
    directory = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-m", "commands.reference", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=GUARD_S)
    return directory


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_the_code_says(page: str, generated: Path) -> None:
    assert (DIRECTORY / page).read_text() == (generated / page).read_text(), "run: make reference"


def test_the_pages_hold_every_setting_and_every_command(generated: Path) -> None:
    settings = (generated / "settings.md").read_text()
    assert all(f"`SERVING_{name.upper()}`" in settings for name in ServingSettings.model_fields)
    cli = (generated / "cli.md").read_text()
    assert all(f"# churn-serving {' '.join(leaf)}\n" in cli for leaf in leaves())


def test_no_page_holds_a_path_of_this_machine(generated: Path) -> None:
    assert all(str(ROOT) not in (generated / page).read_text() for page in PAGES)


def test_nothing_else_is_in_the_directory() -> None:
    assert {file.name for file in DIRECTORY.glob("*")} == set(PAGES)
