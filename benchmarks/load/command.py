"""`churn-serving load-test`: load a service in an open loop, and judge it by its latency bound."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.errors import BenchmarkError, MeasurementError, TargetError, TargetFailed, UsageError
from benchmarks.load.capacity import find_peak
from benchmarks.load.open_loop import run_load
from benchmarks.load.result import MIN_QUERIES, LoadPlan, LoadResult, Output
from benchmarks.load.result import Progress as LoadProgress
from benchmarks.load.target import Protocol, key_bodies, parse_keys, parse_target, path_of
from custom_runtime.active import CONTRACT

screen = Console(stderr=True)
FAILED, WRONG_USAGE, NOT_MEASURED = 1, 2, 3

DEFAULT_URLS = {
    Protocol.PREDICT: "http://127.0.0.1:8080",
    Protocol.V2_REST: "http://127.0.0.1:8080",
    Protocol.V2_GRPC: "grpc://127.0.0.1:8081",
}


def load_test(
    url: Annotated[str, typer.Option(help="Base URL: http(s):// or grpc(s)://host[:port][/prefix].")] = "",
    protocol: Annotated[Protocol, typer.Option(help="How the service is asked.")] = Protocol.PREDICT,
    qps: Annotated[float, typer.Option(help="Arrival rate; with --find-peak, where the search starts.", min=1)] = 1000,
    duration: Annotated[float, typer.Option(help="Seconds measured, more where 512 requests take more.", min=1)] = 15,
    find_peak_: Annotated[
        bool, typer.Option("--find-peak", help="Search the highest rate that passes: the SLO capacity.")
    ] = False,
    precision: Annotated[
        float, typer.Option(help="How close --find-peak comes: 0.05 is 5 %.", min=0.005, max=1)
    ] = 0.05,
    keys: Annotated[str, typer.Option(help="The keys to ask for.")] = "1-7043",
    model: Annotated[str, typer.Option(help="The V2 model name.")] = CONTRACT.name,
    bound_ms: Annotated[float, typer.Option(help="The latency that P99 must not exceed.", min=0.1)] = 50,
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="'Name: value'. Repeatable.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any TLS certificate.")] = False,
    connections: Annotated[int, typer.Option(help="Connections kept open.", min=1, max=10_000)] = 64,
    timeout_s: Annotated[float, typer.Option(help="A request without an answer by then has failed.", min=0.1)] = 2,
    warmup: Annotated[float, typer.Option(help="Seconds before the measurement that do not count.", min=0)] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same arrivals.", min=0)] = 0,
    cpu: Annotated[int | None, typer.Option(help="Pin the load client to this core.", min=0)] = None,
    plot: Annotated[Path | None, typer.Option(help="Where the latency plot goes.")] = Path("var/load_test.png"),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="What is printed.")] = Output.TEXT,
) -> None:
    r"""Send requests for random rows at a given rate and report the latency percentiles.

    An open loop, MLPerf LoadGen's Server scenario: requests arrive at random (Poisson) whether or not the earlier ones
    are answered, and each latency counts from the scheduled arrival. PASSED means that P99 is within the bound and no
    request failed. Exit code 0: PASSED; 1: FAILED, or the first answer is a server error; 2: wrong usage; 3: nothing
    was measured, because the service cannot be reached or refuses the first request, or this client is too slow.

    Example:
    churn-serving load-test --url https://gateway/seldon/prod/churn --protocol v2-rest --qps 1000 --duration 60 \
      -H 'Authorization: Bearer abc'
    """
    picture = None if no_plot else plot
    _end_in_order()
    try:
        if picture is not None:
            _check_place(picture)
        if cpu is not None and cpu not in (cores := sorted(os.sched_getaffinity(0))):
            raise UsageError(f"--cpu is {cpu}; allowed on this machine: {', '.join(map(str, cores))}")
        target = parse_target(url or DEFAULT_URLS[protocol], header or [], verify=not insecure)
        plan = LoadPlan(
            target=target,
            path=path_of(protocol, model),
            bodies=tuple(key_bodies(protocol, model, parse_keys(keys))),
            is_grpc=protocol is Protocol.V2_GRPC,
            qps=qps,
            duration_s=duration,
            bound_ms=bound_ms,
            connections=connections,
            timeout_s=timeout_s,
            warmup_s=warmup,
            seed=seed,
            cpu=cpu,
        )
        trials: list[LoadResult] = []
        at_least = False
        if find_peak_:
            # A trial only steers the search; the rate that it finds is confirmed over the whole duration.
            trial = replace(plan, duration_s=max(1.0, duration / 3))
            capacity = find_peak(
                lambda rate: _trial(replace(trial, qps=rate)),
                lambda rate: _trial(replace(plan, qps=rate)),
                qps,
                precision=precision,
            )
            trials = [trial.result for trial in capacity.trials]
            at_least = capacity.at_least
            result = capacity.peak.result if capacity.peak else trials[-1]
            if capacity.peak is None and result.bottleneck:
                raise MeasurementError(
                    f"at {result.qps:,.0f} requests/s, and at each higher rate, {result.bottleneck}; measure again "
                    "where no other program or machine has its core"
                )
        else:
            result = _run(plan)
    except BenchmarkError as error:
        code, message = _ended(error, asked=url)
        screen.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(code) from error
    plan = replace(plan, qps=result.qps)
    if picture is not None:
        from benchmarks.load.latency_plot import draw  # a second of imports that --help does not need

        draw(picture, f"{protocol.value} on {target.authority}{target.prefix}", result, trials, bound_ms=bound_ms)
    _report(plan, result, trials, at_least=at_least, picture=picture, output=output)
    raise typer.Exit(0 if result.valid else FAILED)


def _end_in_order() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: the processes that send requests are ended first."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, end)


def _ended(error: BenchmarkError, *, asked: str) -> tuple[int, str]:
    """Return the exit code and the line of an error. Only a service that answered is judged. asked: --url."""
    if isinstance(error, UsageError):
        return WRONG_USAGE, str(error)
    if isinstance(error, TargetFailed):
        return FAILED, str(error)
    said = f"nothing was measured: {error}"
    if isinstance(error, TargetError):
        said += (
            "; is the address right, and does the service run?" if asked else "; `make serve` starts a service there"
        )
    return NOT_MEASURED, said


def _run(plan: LoadPlan) -> LoadResult:
    expected_s = max(plan.duration_s, MIN_QUERIES / plan.qps)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(
        *columns, console=screen, refresh_per_second=4, transient=True, disable=not screen.is_terminal
    ) as bar:
        task = bar.add_task(f"{plan.qps:,.0f} requests/s", total=expected_s, figures="warming up")

        def show(progress: LoadProgress) -> None:
            recent = sorted(progress.recent_ms)
            p99 = f"P99 {recent[int(len(recent) * 0.99)]:.2f} ms" if recent else "no answers"
            failures = f", {progress.failures:,} errors" if progress.failures else ""
            figures = f"{progress.requests:,} answers, {p99}{failures}"
            bar.update(task, completed=progress.elapsed_s, figures=figures)

        return run_load(plan, show)


def _trial(plan: LoadPlan) -> LoadResult:
    result = _run(plan)
    line = f"{plan.qps:10,.1f} requests/s  P99 {result.summary.p99_ms:9.2f} ms  {result.verdict}"
    doubt = result.bottleneck or result.disturbance
    screen.print(line + (f" ({doubt})" if doubt else ""), highlight=False, soft_wrap=True)
    return result


def _check_place(plot: Path) -> None:
    """Make the plot's directory before anything is measured. Raises UsageError."""
    try:
        plot.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"no plot can be written to {plot.parent}: {error.strerror}; name another --plot, or give --no-plot"
        ) from error
    if plot.is_dir():
        raise UsageError(f"--plot is {plot}, which is a directory; name a file, such as {plot / 'load_test.png'}")


def _report(
    plan: LoadPlan,
    result: LoadResult,
    trials: list[LoadResult],
    *,
    at_least: bool,
    picture: Path | None,
    output: Output,
) -> None:
    from benchmarks.load.result import as_json, as_table, verdict

    said, colour = verdict(plan, result), "green" if result.valid else "red"
    if output is Output.JSON:
        report = as_json(plan, result) | {"plot": str(picture) if picture else None}
        if trials:
            tried = [{"qps": one.qps, "valid": one.valid, "p99_ms": one.summary.p99_ms} for one in trials]
            report["slo_capacity"] = {"qps": plan.qps if result.valid else None, "at_least": at_least, "trials": tried}
        screen.print(said, style=colour, markup=False, highlight=False, soft_wrap=True)
        typer.echo(json.dumps(report))
        return
    console = Console()
    console.print(as_table(plan, result))
    console.print(said, style=f"bold {colour}", markup=False, highlight=False, soft_wrap=True)
    if result.bottleneck:
        warning = (
            f"These figures say little about the service: {result.bottleneck}. Lower --qps, or use a faster client."
        )
        console.print(warning, style="yellow", soft_wrap=True)
    if result.disturbance:
        warning = f"These figures say little about the service: {result.disturbance}. Measure again."
        console.print(warning, style="yellow", soft_wrap=True)
    if trials and result.valid:
        bound = "at least " if at_least else ""
        console.print(f"SLO capacity (P99 <= {plan.bound_ms:g} ms): {bound}{plan.qps:,.0f} requests/s", style="bold")
        if at_least:
            console.print("Above that rate the client, and not the service, was the bottleneck.", style="yellow")
    elif trials:
        rates_qps = [one.qps for one in trials]
        rates = f"{min(rates_qps):,.0f} to {max(rates_qps):,.0f} requests/s"
        console.print(f"No rate of {rates} kept P99 within {plan.bound_ms:g} ms without a failure.", style="red")
    if picture:
        console.print(f"plot: {picture}")
