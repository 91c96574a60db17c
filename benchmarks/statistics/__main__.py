"""Simulate every world, and write the tables of docs/statistics.md between its marks, and docs/statistics.png."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.statistics.matrix import FAULT, Figures, measure
from benchmarks.statistics.plot import draw

DOCS: Final = Path("docs")
BEGIN, END = "<!-- begin: make statistics -->", "<!-- end: make statistics -->"
screen = Console(stderr=True)


def main(
    runs: Annotated[int, typer.Option(help="A/A rollouts in each world.", min=20)] = 400,
    fault_runs: Annotated[int, typer.Option(help="Rollouts of a faulty canary in each world.", min=20)] = 100,
) -> None:
    """Measure, then write the page and its plot; exit code 1 where a promise does not hold. Seeds are fixed.

    Example: python -m benchmarks.statistics --runs 100
    """
    with Progress(console=screen) as progress:
        task = progress.add_task("simulating", total=None)
        figures = measure(
            runs=runs,
            fault_runs=fault_runs,
            done=lambda at, of: progress.update(task, completed=at, total=of),
        )
    page = DOCS / "statistics.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{tables(figures)}{END}{after}")
    draw(figures.cells, figures.points, DOCS / "statistics.png")
    screen.print(f"{page} and {DOCS / 'statistics.png'} are written")
    for said in figures.failures:
        screen.print(f"a promise of {page} does not hold: {said}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if figures.failures else 0)


def tables(figures: Figures) -> str:
    """Write the three tables as Markdown."""
    cells, powers, points = figures.cells, figures.powers, figures.points
    lines = [
        f"{cells[0].runs} A/A rollouts in each world; false rollbacks by any gate, and those by a gate that compares; "
        "rollbacks of canaries that break the objective for good; seconds until a canary with "
        f"{FAULT:g} times the rate is rolled back at 10 % of the traffic, median (90th percentile).",
        "",
        "| world | pods | requests/s | false | by comparison | objective broken | ten times the rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in cells:
        world = one.world
        lines.append(
            f"| {world.name} | {world.pods}+{world.pods} | {world.rps:,} | {one.false:.1%} | {one.relative:.1%} | "
            f"{one.broken:.1%} | {_seconds(one.fault_s)} ({_seconds(one.fault_s_90)}) |"
        )
    lines += [
        "",
        "Canary requests (median) until 2 % errors against 1 % are found at 10 % of the traffic, independent requests:",
        "",
        "| pods | requests/s | all gates | the comparison alone |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.pods}+{one.pods} | {one.rps:,} | {_requests(one.all_gates)} | {_requests(one.relative)} |"
        for one in powers
    ]
    lines += [
        "",
        "The choice of `pods_differ`: the comparison's false rollbacks in the worst world of 2+2 pods, and how many "
        "canaries with 0.9 % errors against 0.3 % it finds within ten minutes at 1,000 requests/s:",
        "",
        "| pods_differ | false rollbacks | found with 2+2 pods | 3+3 | 10+10 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.pods_differ:g} | {one.false:.1%} | "
        + " | ".join(f"{one.threefold[pods]:.0%}" for pods in (2, 3, 10))
        + " |"
        for one in points
    ]
    return "\n".join(lines) + "\n"


def _seconds(seconds: float | None) -> str:
    return "not in 10 min" if seconds is None else f"{seconds:g} s"


def _requests(requests: float | None) -> str:
    return "not found" if requests is None else f"{requests:,.0f}"


if __name__ == "__main__":
    typer.run(main)
