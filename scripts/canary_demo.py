"""A good release and two bad ones, under load, on this machine: no cluster, no root. `make canary-demo` runs it."""

from __future__ import annotations

import asyncio
import signal
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
        asyncio.run(_told_to_end(Story(Console(), directory.absolute(), rate)))
    except asyncio.CancelledError:
        typer.echo("ended early; nothing runs any more", err=True)
        sys.exit(130)
    except (LocalSeldonError, RolloutError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


async def _told_to_end(story: Story) -> None:
    """Tell the story; Ctrl-C and SIGTERM end it in order, since what it starts outlives its process."""
    telling = asyncio.ensure_future(story.tell())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, telling.cancel)
    await telling


if __name__ == "__main__":
    app()
