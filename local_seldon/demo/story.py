"""The demo: promotes a good release and rolls back two bad ones; callers of a good version get no errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from local_seldon.demo.learning import explain, measure
from local_seldon.demo.load import Load, Tally
from local_seldon.demo.versions import ROOT, STORE, Result, Versions, script
from local_seldon.errors import DemoFailed
from rollout.errors import RolloutError
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore

NAME, NAMESPACE = "churn", "default"
CUSTOMERS = 7043  # of the reference table, numbered from 1
PROMOTED, ROLLED_BACK, NOTHING_RUNS = 0, 1, 4
# Phases of the load; a request counts for the phase in which it was sent.
ALONE, GOOD, DRIFTED, BROKEN, AFTER = "v1 alone", "v2 good", "v3 drifted", "v4 errs", "v2 alone"
KILL_AT_PERCENT = 30
LEASE_S = 5
QUIET_S = 2.0
POLL_S = 0.1
BAR_CELLS = 60
COLOURS = ("blue", "yellow", "magenta")
REFRESH_PER_S = 4


class Stage:
    """The live display. weights: called a few times a second; it must be fast and must not raise."""

    def __init__(self, console: Console, load: Load, weights: Callable[[], Mapping[str, int]]) -> None:
        self._console = console
        self._load = load
        self._weights = weights
        self._started_s = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=REFRESH_PER_S, transient=True
        )

    def __enter__(self) -> Stage:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the display."""
        self._console.print(Text(line), soft_wrap=True)

    def act(self, title: str) -> None:
        """Begin the next act."""
        self._console.print(Rule(Text(f"{time.monotonic() - self._started_s:5.0f} s  {title}", "bold"), align="left"))

    def _picture(self) -> RenderableType:
        weights = {name: percent for name, percent in self._weights().items() if percent}
        bar = Text()
        for index, (name, percent) in enumerate(weights.items()):
            bar.append(f" {name} {percent} % ", "bold").append(
                "█" * round(percent * BAR_CELLS / 100), COLOURS[index % 3]
            )
        tally = self._load.tally
        shares = ", ".join(f"{name} {tally.share(name):.1%}" for name in weights)
        counts = Text(f" {tally.sent:,} sent, {tally.answered:,} answered ({shares}), ")
        counts.append(f"{tally.failed:,} failed", "bold red" if tally.failed else "green")
        return Group(Rule(style="dim"), bar, counts)


def summary(tallies: Mapping[str, Tally], allowed: Mapping[str, str]) -> Table:
    """Return the table of all phases. allowed: the predictor whose failures a phase may show."""
    table = Table("phase", title="Every request, as the caller saw it", title_justify="left")
    for heading in ("sent", "answered", "failed", "by the bad version", "by anything else"):
        table.add_column(heading, justify="right")
    for phase, tally in tallies.items():
        bad = tally.failed_by(allowed.get(phase, ""))
        row = [f"{number:,}" for number in (tally.sent, tally.answered, tally.failed, bad, tally.failed - bad)]
        table.add_row(phase, *row, style="red" if tally.failed > bad else "")
    return table


@dataclass
class Story:
    """One run of the demo. per_s: requests a second."""

    console: Console
    directory: Path = ROOT / "var" / "demo"
    per_s: float = 250.0
    outcomes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.versions = Versions(self.directory)
        self.state = self.directory / "seldon"
        self.store = LocalStore.of(self.state, NAMESPACE, NAME)
        self.target = LocalTarget(self.store)
        self.reports: list[str] = []

    async def tell(self) -> None:
        """Run the demo. Raises DemoFailed when a check fails; no process is left in either case."""
        self.console.print("preparing four models and a feature store; what exists is not made again")
        await self.versions.make(self.console.print)
        async with self._deployed() as url:
            load = Load(f"{url}/seldon/{NAMESPACE}/{NAME}/predict", _body, per_s=self.per_s)
            load.phase = ALONE
            with Stage(self.console, load, self._weights) as stage:
                sending = asyncio.create_task(load.run())
                try:
                    await self._acts(load, stage)
                finally:
                    load.stop()
                    await sending
            explanation = await explain(f"{url}/seldon/{NAMESPACE}/{NAME}/predict")
        self._finish(load)
        self.console.print(explanation)
        page = await measure(self.versions, self.console)
        self.console.print(f"quality: {page}", soft_wrap=True)

    async def _acts(self, load: Load, stage: Stage) -> None:
        stage.act("v1 serves")
        await asyncio.sleep(QUIET_S)
        if load.tally.failed:
            logs = self.store.directory / "logs"
            raise DemoFailed(f"v1 alone: {load.tally.failed} of {load.tally.sent} requests failed; see {logs}")
        load.phase = GOOD
        stage.act(f"v2, trained again: promoted step by step; its driver is killed at {KILL_AT_PERCENT} %")
        await self._roll_out(stage, "v2", PROMOTED, GOOD, kill_at_percent=KILL_AT_PERCENT)
        load.phase = DRIFTED
        stage.act("v3, trained on a table whose churn column was swapped: the scores of its shadow show it")
        await self._roll_out(stage, "v3", ROLLED_BACK, DRIFTED)
        if any(answer.predictor == "v3" for answer in load.tallies[DRIFTED].answers):
            raise DemoFailed("v3 answered callers; as a shadow it must answer none")
        load.phase = BROKEN
        stage.act("v4, whose feature store is deleted once it serves: it answers 503")
        watcher = asyncio.create_task(self._take_store_away(stage))
        await self._roll_out(stage, "v4", ROLLED_BACK, BROKEN, env=f"{STORE}=sqlite:///{self.versions.doomed_features}")
        await watcher
        load.phase = AFTER
        stage.act("v2 serves alone again")
        await asyncio.sleep(QUIET_S)

    async def _roll_out(
        self, stage: Stage, version: str, expected: int, phase: str, *, env: str = "", kill_at_percent: int = 0
    ) -> None:
        """Run a rollout to its end. kill_at_percent: where its driver gets SIGKILL, and another goes on; 0: nowhere."""
        release = ["--version", version, "--image", f"churn-serving:{version[1:]}"]
        release += ["--env", env] if env else []
        place = ["--config", str(self.versions.plan), "--target", "local", "--state", str(self.state)]
        place += ["--namespace", NAMESPACE, "--log", str(self.directory / "rollouts"), "--output", "json"]
        place += ["--lease", str(LEASE_S)]
        if kill_at_percent:
            reached = self._reached(version, kill_at_percent)
            killed = await script(
                "canary_promote", "run", NAME, *release, *place,
                heard=stage.say, allowed=(-signal.SIGKILL,), killed_after=reached,
            )  # fmt: skip
            stage.say(
                f"its driver was killed, as planned (exit code {killed.code}); `resume` waits for the lease and goes on"
            )
            command = ["resume", NAME, *place]
        else:
            command = ["run", NAME, *release, *place]
        result = await script("canary_promote", *command, heard=stage.say, allowed=(0, 1, 2, 3, 4))
        self.outcomes[phase] = _said(result)
        if result.code != expected:
            raise DemoFailed(f"{version}: exit code {result.code}, expected {expected}: {result.output}")
        self.reports.append(str(result.answer["report"]))

    async def _reached(self, version: str, percent: int) -> None:
        while (await asyncio.to_thread(self._weights)).get(version, 0) < percent:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def _take_store_away(self, stage: Stage) -> None:
        # v4 has passed as a shadow and gets its first callers. Polled, because it happens in another process.
        while "v4" not in await asyncio.to_thread(self._weights):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        self.versions.take_store_away()
        stage.say("v4 serves its first callers; its feature store has just been deleted")

    def _weights(self) -> Mapping[str, int]:
        try:
            return self.target.read().mesh_weights
        except RolloutError:
            return {}

    @contextlib.asynccontextmanager
    async def _deployed(self) -> AsyncIterator[str]:
        place = ["--state", str(self.state)]
        artifacts = [word for one in self.versions.artifacts() for word in ("--artifact", one)]
        up = ["up", str(self.versions.manifest), "--port", "0", "--detach", "--output", "json"]
        try:
            await script("seldon_local", *up, *place, *artifacts)
            yield str(self.store.runtime()["url"])
        finally:  # also when `up` was interrupted: its processes would keep running
            down = script("seldon_local", "down", f"{NAMESPACE}/{NAME}", *place, allowed=(0, NOTHING_RUNS))
            await _to_its_end(asyncio.ensure_future(down))

    def _finish(self, load: Load) -> None:
        allowed = {BROKEN: "v4"}
        self.console.print(summary(load.tallies, allowed))
        for phase, outcome in self.outcomes.items():
            self.console.print(Text(f"{phase}: {outcome}"), soft_wrap=True)
        for report in self.reports:
            self.console.print(f"report: {report}", soft_wrap=True)
        lost = {
            phase: tally.failed - tally.failed_by(allowed.get(phase, ""))
            for phase, tally in load.tallies.items()
            if tally.failed > tally.failed_by(allowed.get(phase, ""))
        }
        if lost:
            raise DemoFailed(f"requests failed that no bad version answered: {_counts(lost)}")
        if not load.tallies[BROKEN].failed:
            raise DemoFailed("v4 answered no 503, although its feature store is gone: the bad release was not seen")


async def _to_its_end(ending: asyncio.Task[Result]) -> None:
    """Wait for what must be done although the demo is cancelled meanwhile."""
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending  # signals cancel the demo once only
        raise


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} in the phase {name!r}" for name, number in counts.items())


def _body(chance: random.Random) -> bytes:
    return json.dumps({"customer_id": chance.randint(1, CUSTOMERS)}).encode()


def _said(result: Result) -> str:
    answer: dict[str, Any] = result.answer or {}
    return f"{answer.get('phase', result.code)}: {answer.get('message', '')}"
