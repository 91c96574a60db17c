"""Tests the image by running it: with a baked-in model, with a mounted model, and for what its user may do.

`render` returns docs/image.md from the measurements.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handoff.errors import ImageError
from image.build import Buildah, make_base
from image.container import running, working_container
from image.parts import Part, measure

PREAMBLE = """# The image: how big, and why

Written by `make image-test` from the image that it built and ran; do not edit. The base is made with debootstrap where
no registry can be reached; `python:3.12-slim-bookworm`, the Dockerfile's default, differs from it by a few megabytes.

The image holds the `serve` extra as `requirements/image.txt` locks it. `requirements/image-overrides.txt` says what is
left out and why: XGBoost's GPU code, and what only MLServer's command line imports. The container therefore has no
`mlserver start`; its command is `python scripts/serve.py`. The build also drops test suites, ONNX Runtime's model
conversion tools and the second documentation page. Bytecode is compiled in the build, because the running container
cannot write it: a tenth of the size, for a start without compiling.
"""

IMAGE = "localhost/churn-serving:test"
# The model that the build copies into the image: in the build context, and allowed by .dockerignore.
STAGED_BUNDLE = Path("var/image-bundle")
USER = 1000
MODELS = "/mnt/models"
# Programs that would help an attacker in a serving container, and paths that its user can write to.
SEARCH = (
    "for p in pip pip3 uv gcc cc c++ make ld; do command -v $p; done;"
    ' for m in pip ensurepip setuptools; do python -c "import $m" && echo $m; done'
)
WRITABLE = (
    r"find / -xdev \( -path /proc -o -path /dev -o -path /sys \) -prune -o -writable \( -type f -o -type d \) -print"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One container: the time until it was ready, its prediction, and its exit code after SIGTERM."""

    scorer: str
    model: str
    ready_s: float
    prediction: dict[str, Any]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured. programs: tools found in the image; writable: paths that the container's user can write to."""

    build_s: float
    size_bytes: int
    parts: tuple[Part, ...]
    configuration: dict[str, Any]
    user: str
    programs: tuple[str, ...]
    writable: tuple[str, ...]
    runs: tuple[Run, ...]


def prove(buildah: Buildah, context: Path, *, bundle: Path, features: Path, model: str, body: dict[str, Any]) -> Proof:
    """Build the Dockerfile of `context` with the bundle baked in, and run it.

    features: the SQLite feature store, of which the containers get a copy. body: what is sent to /predict.
    Raises ImageError when it cannot be built, or does not start.
    """
    # Before the base is made, which takes minutes.
    missing = [str(path) for path in (bundle / "bundle.json", features) if not path.is_file()]
    if missing:
        raise ImageError(f"{' and '.join(missing)} not found; make them: make serve")
    try:
        return _prove(buildah, context, bundle, features, model, body)
    finally:
        buildah.release()


def _prove(buildah: Buildah, context: Path, bundle: Path, features: Path, model: str, body: dict[str, Any]) -> Proof:
    base = make_base(buildah)
    staged = context / STAGED_BUNDLE
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(bundle, staged)
    build_s = buildah.build(context, IMAGE, base=base, arguments={"BUNDLE": str(STAGED_BUNDLE)})
    with working_container(buildah, IMAGE) as container:
        size_bytes, parts = measure(Path(buildah.run("mount", container)))
        user, programs, writable = (_shell(buildah, container, line) for line in ("id -u", SEARCH, WRITABLE))
    with _readable_copies(bundle, features) as (bundle_copy, features_copy):
        baked = _run(buildah, "auto", model, body, {features_copy: "/features"})
        mounted = _run(buildah, "xgboost", model, body, {features_copy: "/features", bundle_copy: MODELS})
    return Proof(
        build_s, size_bytes, parts, buildah.configuration(IMAGE), user[0], programs, writable, (baked, mounted)
    )


def _run(buildah: Buildah, scorer: str, model: str, body: dict[str, Any], volumes: dict[Path, str]) -> Run:
    environment = {
        "SERVING_SCORER": scorer,
        "SERVING_FEATURE_STORE": "sqlite:////features/features.db",
        "SERVING_DRAIN_DELAY_S": "0",
    }
    with running(buildah, IMAGE, model=model, environment=environment, volumes=volumes) as container:
        request = urllib.request.Request(  # noqa: S310 -- our own http address
            f"{container.url}/predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            prediction = json.load(response)
        source = "mounted" if MODELS in volumes.values() else "baked in"
        return Run(scorer, source, container.ready_s, prediction, container.stop())


def _shell(buildah: Buildah, container: str, line: str) -> tuple[str, ...]:
    quiet = f"({line}) 2>/dev/null; true"
    return tuple(buildah.run("run", "--isolation", "chroot", container, "--", "sh", "-c", quiet).split())


@contextmanager
def _readable_copies(bundle: Path, features: Path) -> Iterator[tuple[Path, Path]]:
    """Copy bundle and features, owned by the container's user; SQLite readers also need to write locks."""
    with tempfile.TemporaryDirectory(prefix="image-test-") as folder:
        root = Path(folder)
        shutil.copytree(bundle, root / "bundle")
        (root / "features").mkdir()
        with (
            closing(sqlite3.connect(features)) as source,
            closing(sqlite3.connect(root / "features/features.db")) as copy,
        ):
            source.backup(copy)
        for path in (root, *root.rglob("*")):
            os.chown(path, USER, USER)
        yield root / "bundle", root / "features"


def render(proof: Proof) -> str:
    """Return the Markdown page of a proof."""
    lines = [PREAMBLE, f"**{proof.size_bytes / 1e6:.0f} MB** in all, uncompressed. The ten largest parts:\n"]
    lines += ["| part | MB | why it is there |", "|---|--:|---|"]
    lines += [f"| {part.name} | {part.size_bytes / 1e6:.0f} | {part.reason} |" for part in proof.parts]
    rest = proof.size_bytes - sum(part.size_bytes for part in proof.parts)
    lines += [f"| everything else | {rest / 1e6:.0f} | |", "", "What was seen when it ran:\n"]
    lines += ["| model | scored by | ready after | exit code after SIGTERM |", "|---|---|--:|--:|"]
    lines += [f"| {run.model} | {run.scorer} | {run.ready_s:.1f} s | {run.exit_code} |" for run in proof.runs]
    lines += [
        "",
        f"It ran as user {proof.user}, found no compiler and no pip, and could write to "
        f"{', '.join(f'`{path}`' for path in proof.writable)} and nowhere else.",
    ]
    return "\n".join(lines) + "\n"
