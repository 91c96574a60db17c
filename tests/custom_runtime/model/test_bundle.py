import json
from pathlib import Path

import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.errors import BundleError, ContractMismatch
from custom_runtime.model import bundle as bundle_writing
from custom_runtime.model.bundle import Bundle, Parity, read_bundle, write_bundle

DEFAULTS = {feature.name: feature.example for feature in CONTRACT.features}


def write(directory: Path, *, version: str = "7", onnx: bytes = b"graph") -> Bundle:
    return write_bundle(
        directory,
        {"onnx": onnx, "xgboost": b"trees"},
        name="churn",
        version=version,
        run_id="r1",
        source=f"models:/churn/{version}",
        flavor="xgboost",
        defaults=DEFAULTS,
        parity=Parity(7043, 2e-7, 1e-5),
    )


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write(tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle") == written
    assert written.path("onnx").read_bytes() == b"graph"
    assert written.contract_fingerprint == CONTRACT.fingerprint


def test_an_altered_file_is_named_with_both_hashes(tmp_path: Path) -> None:
    write(tmp_path).path("onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"was altered: sha256 is d9298a10.*bundle.json says"):
        read_bundle(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path).path("xgboost").unlink()
    with pytest.raises(BundleError, match=r"\.ubj cannot be read: No such file"):
        read_bundle(tmp_path)


def test_an_empty_directory_names_the_command_that_makes_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"make one: churn-serving import models:/churn@champion --output"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', '{"schema": 2}', "\x00"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_bundle(tmp_path)


def test_a_bundle_of_another_contract_is_refused_naming_both(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = tmp_path / "bundle.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"contract_fingerprint": "0" * 64}))
    with pytest.raises(ContractMismatch, match=f"{'0' * 64}.*{CONTRACT.fingerprint}"):
        read_bundle(tmp_path)


def test_a_new_bundle_replaces_the_old_one_whose_files_stay_for_a_reader_that_has_begun(tmp_path: Path) -> None:
    first = write(tmp_path, version="7", onnx=b"one")
    second = write(tmp_path, version="8", onnx=b"two")
    assert read_bundle(tmp_path) == second
    assert first.path("onnx").read_bytes() == b"one"
    write(tmp_path, version="9", onnx=b"three")
    assert not first.path("onnx").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_write_that_fails_half_way_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, onnx=b"one")
    replace = bundle_writing._replace

    def full_disk(path: Path, content: bytes) -> None:
        if path.name == "bundle.json":
            raise OSError("no space left on device")
        replace(path, content)

    monkeypatch.setattr(bundle_writing, "_replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, version="8", onnx=b"two")
    assert read_bundle(tmp_path) == first
