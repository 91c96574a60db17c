"""Every file of an image is counted once, to whoever brought it."""

import os
from pathlib import Path
from typing import Any

import pytest

from handoff.errors import ImageError
from image.build import Buildah
from image.parts import REASONS, measure
from image.proof import prove

SITE = "opt/serving/python/lib/python3.12/site-packages"


def write(root: Any, path: Any, size_bytes: Any) -> Any:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size_bytes)
    return file


def sizes(root: Any) -> Any:
    total, parts = measure(root)
    assert total == sum(part.size_bytes for part in parts)
    return {part.name: part.size_bytes for part in parts}


def test_distributions_own_what_their_record_lists_and_its_bytecode(tmp_path: Path) -> None:
    write(tmp_path, f"{SITE}/numpy/core.py", 100)
    write(tmp_path, f"{SITE}/numpy/__pycache__/core.cpython-312.pyc", 50)
    write(tmp_path, f"{SITE}/numpy.libs/libblas.so", 1_000)
    record = write(tmp_path, f"{SITE}/numpy-2.4.6.dist-info/RECORD", 0)
    record.write_text("numpy/core.py,,\nnumpy.libs/libblas.so,,\nnumpy-2.4.6.dist-info/RECORD,,\n")
    assert sizes(tmp_path) == {"numpy": 1_150 + record.stat().st_size}


def test_interpreter_model_and_system_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "usr/local/lib/python3.12/json.py", 10)
    write(tmp_path, "usr/bin/python3.12", 20)
    write(tmp_path, "mnt/models/model-abc.onnx", 300)
    write(tmp_path, "usr/bin/dash", 4_000)
    assert sizes(tmp_path) == {"Python": 30, "model": 300, "Debian": 4_000}


def test_hard_link_counts_once(tmp_path: Path) -> None:
    os.link(write(tmp_path, "usr/bin/perl", 500), tmp_path / "usr/bin/perl5")
    assert sizes(tmp_path) == {"Debian": 500}


def test_large_part_without_a_reason_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f"{SITE}/surprise/blob.so", 5_000_000)
    write(tmp_path, f"{SITE}/surprise-1.0.dist-info/RECORD", 0).write_text("surprise/blob.so,,\n")
    assert "surprise" not in REASONS
    with pytest.raises(ImageError, match=r"surprise \(5 MB\)"):
        measure(tmp_path)


def test_without_a_bundle_nothing_is_built_and_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    features = write(tmp_path, "features.db", 1)
    with pytest.raises(ImageError, match=r"nowhere/bundle\.json not found; make them: make serve"):
        prove(Buildah(tmp_path), tmp_path, bundle=tmp_path / "nowhere", features=features, model="churn", body={})
    assert list(tmp_path.iterdir()) == [features]
