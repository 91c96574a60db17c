"""Groups of options, as typer and a person at the command line see them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from rollout.cli.grouping import grouped


@dataclass(frozen=True)
class Near:
    street: Annotated[str, typer.Option(help="The street.")]
    number: Annotated[int, typer.Option("--number", "-n", help="The number.")] = 1


@dataclass(frozen=True)
class Far:
    near: Near
    town: Annotated[str, typer.Option(help="The town.")] = "Ghent"


heard: list[tuple[bool, Far, str]] = []


def post(*, express: bool = False, to: Far, word: str = "") -> None:
    """Post a letter."""
    heard.append((express, to, word))


@pytest.fixture
def app() -> typer.Typer:
    heard.clear()
    made = typer.Typer(rich_markup_mode=None)
    made.command()(grouped(post))
    return made


def test_the_options_of_a_group_stand_where_the_group_stood(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "Post a letter." in shown
    assert re.findall(r"--(express|street|number|town|word|to|near)\b", shown) == [
        "express", "street", "number", "town", "word",
    ]  # fmt: skip


def test_a_command_gets_its_groups_put_together(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["--street", "Veldstraat", "-n", "7", "--express"]).exit_code == 0
    assert heard == [(True, Far(Near("Veldstraat", 7), "Ghent"), "")]


def test_a_field_without_default_is_a_required_option(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, [])
    assert (done.exit_code, heard) == (2, [])
    assert "Missing option '--street'" in done.stderr
