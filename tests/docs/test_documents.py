"""What the documents say is what the code does: commands run, tables agree."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from custom_runtime import errors
from custom_runtime.settings import ServingSettings
from tests.support.commands import unknown_options
from tests.support.programs import ROOT
from tests.support.serving import Server

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def kinds(base: type[errors.ServingError]) -> list[type[errors.ServingError]]:
    return [each for child in base.__subclasses__() for each in (child, *kinds(child))]


@pytest.mark.integration
def test_the_readmes_curl_gets_a_prediction(server: Server) -> None:
    (command,) = (line for line in "".join(blocks("sh")).splitlines() if line.startswith("curl"))
    arguments = shlex.split(command.replace("http://localhost:8080", server.rest))
    answer = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
    assert answer["customer_id"] == 42
    assert 0 < answer["churn_probability"] < 1
    documented = json.loads(README.split("# {", 1)[1].split("\n", 1)[0].join(("{", "")).replace("...", ""))
    assert answer.keys() == documented.keys()
    assert answer["churn_probability"] == pytest.approx(documented["churn_probability"], abs=1e-4)


@pytest.mark.integration
def test_the_readmes_grpc_snippet_gets_predictions(server: Server) -> None:
    (snippet,) = blocks("python")
    code = snippet.replace("localhost:8081", server.grpc)
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert len(re.findall(r"0\.\d+", printed)) == 2


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"^(?:.*`)?make ([a-z-]+)", "".join(blocks("sh")) + "make help", re.MULTILINE)))
)
def test_every_target_of_the_readme_exists(target: str) -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"make {target}" in listed


@pytest.mark.parametrize("call", re.findall(r"^[^`#\n]*\bchurn-serving ([a-z][^`#\n]*)", README, re.MULTILINE))
def test_every_command_of_the_readme_exists_as_it_is_called(call: str) -> None:
    assert unknown_options(*shlex.split(call)) == []


def test_the_error_page_lists_every_error_with_its_codes() -> None:
    table = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \|", table, re.MULTILINE)
    assert set(rows) == {(kind.code, str(kind.status), kind.grpc) for kind in kinds(errors.ServingError)}
    for setting in re.findall(r"SERVING_(\w+)", table):
        assert setting.lower() in ServingSettings.model_fields


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ServingSettings.model_fields.values())


def test_the_readme_begins_with_the_quickstart() -> None:
    assert "make serve" in README[: README.index("## Layout")]
    assert Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
