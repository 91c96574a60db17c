"""docs/clients.md is what real clients find: each is run against a real server, and the table is made of its answers.

UPDATE_DOCS=1 writes the table; without it the test fails where the document differs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.programs import ROOT, program
from tests.support.serving import Server, World

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

DOCUMENT = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
CUSTOMERS = (42, 43)
GROUPS = ("triton_http", "triton_grpc", "kserve", "mlserver", "python", "curl", "java", "reflection")
PROGRAMS = {"curl": ("curl", "curl"), "java": ("java", "openjdk-17-jdk-headless")}
# Calls that are refused by design: the row says so.
REFUSED = {("tritonclient.http", "infer, gzip"): "415"}
Row = tuple[str, str, str, str]


def interpreter(group: str, directory: Path) -> str:
    """KServe's client pins other versions: it has an environment of its own, made from the lock of the benchmark."""
    if group != "kserve":
        return sys.executable
    given = ROOT / "var" / "peers" / "kserve" / "venv" / "bin" / "python"
    if given.exists():
        return str(given)
    uv = str(Path(sys.executable).with_name("uv"))
    lock = ROOT / "requirements" / "peers" / "kserve.txt"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)], check=True)
    python = str(directory / "bin" / "python")
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", str(lock)], check=True)
    return python


def run_clients(server: Server, group: str, directory: Path) -> list[tuple[str, str, object, str]]:
    command = [interpreter(group, directory), str(ROOT / "tests" / "support" / "client_calls.py"), group]
    addresses = [server.rest, server.grpc, server.metrics]
    done = subprocess.run([*command, *addresses], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[tuple[str, str, object, str]] = json.loads(done.stdout)
    return rows


def table_of(rows: list[Row]) -> str:
    lines = [("client", "call", "works", "path"), ("---", "---", "---", "---"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@pytest.fixture(scope="module")
def expected(world: World) -> list[float]:
    found = np.load(world.expected)
    return [float(found["champion"][found["ids"] == customer][0]) for customer in CUSTOMERS]


@pytest.mark.parametrize("group", GROUPS)
def test_the_document_says_what_real_clients_find(
    server: Server, expected: list[float], group: str, tmp_path: Path
) -> None:
    if group in PROGRAMS:
        name, package = PROGRAMS[group]
        program(name, package=package)
    rows: list[Row] = []
    problems = []
    for client, call, answer, path in run_clients(server, group, tmp_path / "venv"):
        works = answer is True or (
            isinstance(answer, list) and bool(answer) and np.allclose(answer, expected[: len(answer)], atol=1e-6)
        )
        refusal = REFUSED.get((client, call))
        if refusal is not None and f"[{refusal}]" in str(answer):
            rows.append((client, call, f"no: {refusal}", "-"))
            continue
        if not works:
            problems.append(f"{client}, {call}: {answer}")
        rows.append((client, call, "yes" if works else "no", path))
    assert not problems, "\n".join(problems)
    text = DOCUMENT.read_text()
    begin, end = BEGIN.replace("table", group), END.replace("table", group)
    before, _, rest = text.partition(begin)
    documented, _, after = rest.partition(end)
    if os.environ.get("UPDATE_DOCS") == "1":
        DOCUMENT.write_text(f"{before}{begin}{table_of(rows)}{end}{after}")
    else:
        assert documented == table_of(rows), "run with UPDATE_DOCS=1"


def test_every_table_is_in_the_document() -> None:
    for group in GROUPS:
        assert BEGIN.replace("table", group) in DOCUMENT.read_text()
