"""Those who notify of a rollout: log, webhook, metrics, screen. None of them may disturb it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.announcer import Broadcast, Log
from rollout.engine.record import Record, read
from rollout.engine.state import Phase, RolloutState
from rollout.plan.plan import Plan
from rollout.reporting.metrics import Metrics
from rollout.reporting.terminal import Screen, picture
from rollout.reporting.webhook import Webhook

STATE = RolloutState("abc", Plan(), "v7", "v8", step=1, phase=Phase.HELD, message="no evidence")
RESULT = GateResult("errors", Verdict.INCONCLUSIVE, "too few", needs_requests=40)


def record(event: Any = "Held", *, at_s: float = 1.0, message: str = "no evidence") -> Any:
    return Record(at_s, event, "churn", "v7", "v8", 1, {"v7": 70, "v8": 30}, (RESULT,), message=message)


@contextmanager
def hook(status: int) -> Iterator[tuple[str, list[dict[str, object]]]]:
    got: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_log_is_read_back_even_when_a_crash_cut_its_last_line(tmp_path: Path) -> None:
    log = Log(tmp_path / "deep" / "churn.jsonl")
    log.notify(record(), STATE)
    log.notify(record("Sample"), STATE)
    with log.file.open("a") as stream:
        stream.write('{"at_s": 3')
    with log.file.open() as stream:
        assert [one.event for one in read(stream)] == ["Held", "Sample"]
    Log(log.file).notify(record("Resumed"), STATE)  # the promoter after the crash writes whole lines again
    with log.file.open() as stream:
        assert [one.event for one in read(stream)] == ["Held", "Sample", "Resumed"]


def test_a_webhook_hears_changes_and_no_samples() -> None:
    with hook(200) as (url, got):
        webhook = Webhook(url)
        webhook.notify(record(), STATE)
        webhook.notify(record("Sample"), STATE)
    assert [(one["phase"], one["weights_percent"]) for one in got] == [("Held", {"v7": 70, "v8": 30})]
    assert got[0]["text"] == "churn: Held (Held): no evidence"


@pytest.mark.parametrize("status", [500, 404])
def test_a_webhook_that_fails_disturbs_nobody(status: int) -> None:
    with hook(status) as (url, got):
        Broadcast([Webhook(url)]).notify(record(), STATE)
    assert len(got) == 1


def test_a_webhook_that_is_not_there_disturbs_nobody() -> None:
    Webhook("http://127.0.0.1:9/hook").notify(record(), STATE)


def test_metrics_tell_the_phase_and_count_verdicts_and_rollbacks() -> None:
    metrics = Metrics()
    metrics.notify(record(), STATE)
    value = metrics.registry.get_sample_value
    assert value("serving_rollout_phase", {"namespace": "", "deployment": "churn", "phase": "Held"}) == 1
    assert value("serving_rollout_phase", {"namespace": "", "deployment": "churn", "phase": "Progressing"}) == 0
    assert value("serving_rollout_weight_percent", {"namespace": "", "deployment": "churn", "predictor": "v8"}) == 30
    verdict = {"namespace": "", "deployment": "churn", "gate": "errors", "verdict": "inconclusive"}
    assert value("serving_rollout_verdicts_total", verdict) == 1
    metrics.notify(record("RolledBack"), STATE.but(phase=Phase.ROLLED_BACK, rollback_stage="removal"))
    assert value("serving_rollout_rollbacks_total", {"namespace": "", "deployment": "churn", "stage": "removal"}) == 1


def test_a_terminal_shows_weights_phase_and_what_each_gate_says() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(picture(STATE, [RESULT]))
    shown = cast(io.StringIO, console.file).getvalue()
    for part in ("v7 70 %", "30 % v8", "Held, step 2 of 4", "no evidence", "errors", "inconclusive", "too few"):
        assert part in shown


def test_a_pipelines_log_has_one_line_for_each_change() -> None:
    console = Console(file=io.StringIO(), width=200)
    with Screen(console) as screen:
        for event in ("WeightsRaised", "Sample", "Sample", "Held"):
            screen.notify(record(event), STATE)
    lines = cast(io.StringIO, console.file).getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["WeightsRaised", "Held"]


def test_a_pipelines_log_says_at_intervals_what_a_long_step_waits_for() -> None:
    console = Console(file=io.StringIO(), width=200)
    with Screen(console) as screen:
        screen.notify(record("Analysing", at_s=100, message="90 s more"), STATE)
        for seconds in range(2, 92, 2):
            screen.notify(record("Sample", at_s=100 + seconds, message=f"{90 - seconds} s more"), STATE)
        screen.notify(record("WeightsRaised", at_s=192), STATE)
        screen.notify(record("Sample", at_s=194), STATE)
    lines = cast(io.StringIO, console.file).getvalue().splitlines()
    said = [(line.split()[1], line.partition("] ")[2]) for line in lines]
    waits = [("Analysing", f"{left_s} s more") for left_s in (90, 60, 30, 0)]
    assert said == [*waits, ("WeightsRaised", "no evidence")]
