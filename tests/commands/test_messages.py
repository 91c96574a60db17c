"""Whatever a command meets, it ends in one line that names the thing, with its exit code, and never in a traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import GUARD_S, ROOT, program

PROGRAM = str(Path(sys.executable).parent / "churn-serving")


def ended(*words: str, **environment: str) -> tuple[int, str]:
    """Return the exit code and standard error of a command."""
    done = subprocess.run(
        [PROGRAM, *words], cwd=ROOT, env=os.environ | {"COLUMNS": "200", **environment},
        capture_output=True, text=True, check=False, timeout=GUARD_S,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def table(directory: Path) -> Path:
    """Write a table of two columns that a contract can be drafted from."""
    file = directory / "loans.csv"
    file.write_text("amount,status\n" + "".join(f"{number * 7 % 30}.5,{number % 2}\n" for number in range(100)))
    return file


def drafted_into(output: str, directory: Path, *options: str) -> tuple[int, str]:
    return ended("contract", "init", "--data", str(table(directory)), "--label", "status", "--output", output, *options)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    assert drafted_into("/dev/null/contract.py", tmp_path) == (1, "error: /dev/null: File exists\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux has it")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Such an error names no file."""
    said = "error: cannot write: No space left on device\n"
    assert drafted_into("/dev/full", tmp_path, "--force") == (1, said)


@pytest.mark.parametrize("command", [("load-test", "--no-plot"), ("features", "load", "--dry-run")])
def test_a_contract_that_does_not_exist_is_one_line(command: tuple[str, ...]) -> None:
    code, said = ended(*command, SERVING_CONTRACT="nowhere/contract.py")
    assert (code, said.count("\n")) == (1, 1), said
    assert "SERVING_CONTRACT is 'nowhere/contract.py'" in said


def test_a_wrong_setting_ends_the_preparation_with_one_line_that_names_the_variable() -> None:
    code, said = ended("serve", "--prepare", SERVING_MAX_ROWS="many", SERVING_RECORD_SALT="a secret")
    assert (code, said.count("\n")) == (1, 1), said
    assert "SERVING_MAX_ROWS is 'many'; input should be a valid integer" in said
    assert "SERVING_RECORD_SALT is set; " in said
    assert "a secret" not in said


def test_a_directory_for_the_state_that_is_a_file_is_one_line() -> None:
    words = ("local", "down", "default/churn", "--state", "/dev/null")
    code, said = ended(*words)
    assert (code, said.count("\n")) == (4, 1), said
    assert "/dev/null" in said


def test_a_metrics_port_that_is_taken_begins_no_rollout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("--target", "local", "--state", str(tmp_path), "--evidence", "prometheus=http://127.0.0.1:9")
        code, said = ended(
            "rollout", "run", "churn", "--version", "v2", "--image", "churn:2", *words, "--metrics-port", port
        )
    assert code == 2, said
    assert said.endswith(
        f"error: --metrics-port is {port}: Address already in use; choose a free one, or leave it out\n"
    )


def test_a_kubeconfig_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("not: [yaml")
    code, said = ended("rollout", "status", "churn", KUBECONFIG=str(tmp_path / "config"))
    assert (code, said.count("\n")) == (4, 1), said
    assert said.startswith("error: no cluster can be reached: ")
    assert said.endswith("; set KUBECONFIG, or run in a pod with a service account\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("image-test", "--report", "docs"), 1, "--report is docs, which is a directory; name a file, such as docs/im"),
        (("image-test", "--report", "no/where.md"), 1, "--report is no/where.md; there is no directory no"),
        (("rollout", "controller", "--evidence", "nonsense"), 2, "evidence is 'nonsense'; allowed: prometheus="),
    ],
)
def test_a_wrong_option_is_known_before_the_work_begins(words: tuple[str, ...], code: int, message: str) -> None:
    ended_with, said = ended(*words)
    assert (ended_with, said.count("\n")) == (code, 1), said
    assert said.startswith(f"error: {message}")


@pytest.mark.parametrize("option", [("--version", "seven!"), ("--version", "7", "--namespace", "Bad_NS")])
def test_a_name_that_kubernetes_refuses_is_one_line_that_says_error_once(option: tuple[str, ...]) -> None:
    program("kubectl")
    code, said = ended("manifest", "render", *option)
    assert (code, said.count("\n"), said.count("error")) == (1, 1, 1), said
    assert "is not a DNS label" in said
