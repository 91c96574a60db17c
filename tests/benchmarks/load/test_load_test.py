"""churn-serving load-test as a pipeline runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from benchmarks.load import command
from benchmarks.load.command import NOT_MEASURED
from tests.support.answering import answering, ok
from tests.support.attempts import attempts
from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server


def load_test(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "scripts/load_test.py", "--warmup", "0", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=GUARD_S)


def test_a_valid_run_exits_with_0_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "latency.png"
    with answering(lambda number: ok()) as port:
        url = f"http://127.0.0.1:{port}"
        done = load_test("--url", url, "--qps", "600", "--duration", "1", "--bound-ms", "2000", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"PASSED: 99% of [0-9,]+ requests were answered within [0-9.,]+ ms \(allowed: 2000 ms\), and none failed",
        done.stdout,
    )
    assert "P99.9" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_an_invalid_run_exits_with_1_and_says_why() -> None:
    with answering(lambda number: ok(b'{"code": "x"}', status="503 X") if number % 2 else ok()) as port:
        url = f"http://127.0.0.1:{port}"
        done = load_test("--url", url, "--qps", "600", "--duration", "1", "--no-plot", "-o", "json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["valid"]
    assert report["errors"]["HTTP 503"] == pytest.approx(report["requests"] / 2, abs=2)
    assert "failed" in report["reasons"][0]
    assert report["plot"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--url", "ftp://host"], 2, "ftp"),
        (["--keys", "x"], 2, "1-7043"),
        (["--qps", "-1"], 2, "--qps"),
        (["--url", "http://127.0.0.1:9"], 3, "nothing was measured: cannot connect to 127.0.0.1:9: Connection refused"),
        (["--plot", "/dev/null/plot.png"], 2, "/dev/null"),
        (["--cpu", "9999"], 2, "--cpu is 9999; allowed on this machine: "),
    ],
)
def test_wrong_usage_exits_with_2_and_an_unreachable_service_with_3(arguments: list[str], code: int, said: str) -> None:
    done = load_test(*arguments, *([] if "--plot" in arguments else ["--no-plot"]))
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_that_cannot_keep_any_rate_has_measured_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = SimpleNamespace(valid=True, bottleneck="the client sent 4.63 ms late on average", qps=1_000.0)
    monkeypatch.setattr(command, "_trial", lambda plan: SimpleNamespace(**vars(late) | {"qps": plan.qps}))
    with pytest.raises(typer.Exit) as ended:
        command.load_test(find_peak_=True, no_plot=True)
    assert ended.value.exit_code == NOT_MEASURED
    said = capsys.readouterr().err
    assert "nothing was measured: at 250 requests/s, and at each higher rate, the client sent 4.63 ms late" in said
    assert "make serve" not in said


@pytest.mark.slow
def test_the_peak_lies_between_a_rate_that_holds_and_one_that_does_not() -> None:
    with answering(lambda number: ok()) as port:
        arguments = [
            "--connections",
            "1",
            "--find-peak",
            "--precision",
            "1",
            "--duration",
            "1",
            "--qps",
            "4000",
            "--bound-ms",
            "100",
        ]
        for attempt in attempts():
            done = load_test("--url", f"http://127.0.0.1:{port}", *arguments, "--no-plot", "-o", "json")
            assert done.returncode in (0, NOT_MEASURED), done.stderr
            attempt.end(is_met=done.returncode == 0, figures=done.stderr)
    report = json.loads(done.stdout)
    capacity = report["slo_capacity"]
    assert report["valid"]
    assert capacity["qps"] == report["target_qps"]
    assert any(trial["qps"] > capacity["qps"] for trial in capacity["trials"])


@pytest.mark.integration
@pytest.mark.parametrize("protocol", ["predict", "v2-rest", "v2-grpc"])
def test_the_service_answers_every_protocol_without_an_error(server: Server, protocol: str) -> None:
    url = f"grpc://{server.grpc}" if protocol == "v2-grpc" else server.rest
    arguments = ["--protocol", protocol, "--qps", "300", "--duration", "1", "--bound-ms", "2000", "--timeout-s", "10"]
    done = load_test("--url", url, *arguments, "--no-plot", "-o", "json")
    report = json.loads(done.stdout)
    assert report["errors"] == {}
    assert report["requests"] >= 512
    assert done.returncode == 0
