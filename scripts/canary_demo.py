"""A good release and two bad ones, under load, on this machine: no cluster, no root. `make canary-demo` runs it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local_seldon.demo.story import Story
from local_seldon.errors import LocalSeldonError
from rollout.errors import RolloutError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def demo(
    directory: Annotated[Path, typer.Option(help="Where models, logs and reports go.")] = Path("var/demo"),
    rate: Annotated[float, typer.Option(min=50, max=1000, help="Requests a second.")] = 250.0,
) -> None:
    """Run the demo.

    Example:
    python scripts/canary_demo.py --rate 150
    """
    try:
        asyncio.run(Story(Console(), directory.absolute(), rate).tell())
    except (LocalSeldonError, RolloutError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    app()
