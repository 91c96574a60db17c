"""Simulate every world, and write the tables of docs/statistics.md between its marks, and docs/statistics.png."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.statistics.matrix import FAULT, PRIORS, Cell, Point, Power, cell, point, power, worlds
from benchmarks.statistics.plot import draw
from rollout.analysis.gate_config import GateConfig

DOCS: Final = Path("docs")
BEGIN, END = "<!-- begin: make statistics -->", "<!-- end: make statistics -->"
screen = Console(stderr=True)


def main(
    runs: Annotated[int, typer.Option(help="A/A rollouts in each world.", min=20)] = 400,
    fault_runs: Annotated[int, typer.Option(help="Rollouts of a faulty canary in each world.", min=20)] = 100,
) -> None:
    """Measure, then write the page and its plot. Seeds are fixed; 400 runs take some ten minutes on one core.

    Example: python -m benchmarks.statistics --runs 100
    """
    config, all_worlds = GateConfig(), list(worlds())
    sizes = [(2, 100), (2, 1000), (10, 100), (10, 1000)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        simulated = pool.map(partial(cell, config=config, runs=runs, fault_runs=fault_runs), all_worlds)
        powerful = [pool.submit(power, pods, rps, config, runs=fault_runs) for pods, rps in sizes]
        choices = pool.map(partial(point, runs=runs), PRIORS)
        cells = list(track(simulated, "worlds", console=screen, total=len(all_worlds)))
        powers = [one.result() for one in powerful]
        points = list(track(choices, "curve", console=screen, total=len(PRIORS)))
    page = DOCS / "statistics.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{tables(cells, powers, points)}{END}{after}")
    draw(cells, points, DOCS / "statistics.png")
    screen.print(f"{page} and {DOCS / 'statistics.png'} are written")


def tables(cells: list[Cell], powers: list[Power], points: list[Point]) -> str:
    """Write the three tables as Markdown."""
    lines = [
        f"{cells[0].runs} A/A rollouts each; rollbacks by the comparison + by the objective; seconds until a canary "
        f"with {FAULT:g} times the errors is rolled back at 10 % of the traffic, median (90th percentile).",
        "",
        "| world | pods | requests/s | false rollbacks | ten times the errors |",
        "|---|---|---|---|---|",
    ]
    for one in cells:
        world = one.world
        lines.append(
            f"| {world.name} | {world.pods}+{world.pods} | {world.rps:,} | {one.relative:.1%} + {one.objective:.1%} | "
            f"{_seconds(one.fault_s)} ({_seconds(one.fault_s_90)}) |"
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
