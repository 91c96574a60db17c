"""`churn-serving image-test`: build the image where no registry can be reached, and get a prediction from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from handoff.commands import OutputFormat, configure_log, fail_with_one_line
from handoff.errors import DataError

ROOT = Path(__file__).resolve().parent.parent


def image_test(
    bundle: Annotated[Path, typer.Option(help="The bundle that is baked in, and mounted.")] = Path("var/bundle"),
    features: Annotated[Path, typer.Option(help="The SQLite feature store.")] = Path("var/features.db"),
    storage: Annotated[Path, typer.Option(help="Where images are kept; a second run is quick.")] = Path("var/image"),
    report: Annotated[Path | None, typer.Option(help="Write size and parts as Markdown.")] = None,
    output: Annotated[OutputFormat, typer.Option("-o", "--output", help="What is printed.")] = "text",
) -> None:
    """Make a base with debootstrap, build the Dockerfile with buildah, and run the container's own command as its user.

    Once with the model baked in, scored as usual, and once with it mounted, scored by XGBoost. Needs root.

    Example:
    churn-serving image-test --report docs/image.md
    """
    configure_log()
    with fail_with_one_line():
        from custom_runtime.active import CONTRACT
        from image.build import Buildah, require_programs
        from image.proof import prove, render

        if report is not None and not report.parent.is_dir():
            raise DataError(f"--report is {report}; there is no directory {report.parent}")
        if report is not None and report.is_dir():  # before the minutes of a build
            raise DataError(f"--report is {report}, which is a directory; name a file, such as {report / 'image.md'}")
        require_programs()
        bundle, features, storage = bundle.resolve(), features.resolve(), storage.resolve()
        fields = CONTRACT.features if CONTRACT.key_field is None else (CONTRACT.key_field,)
        body = {field.name: field.example for field in fields}
        proof = prove(Buildah(storage), ROOT, bundle=bundle, features=features, model=CONTRACT.name, body=body)
        if report is not None:
            report.write_text(render(proof), encoding="utf-8")
    if output == "json":
        typer.echo(json.dumps(asdict(proof)))
        return
    typer.echo(f"built in {proof.build_s:.0f} s: {proof.size_bytes / 1e6:.0f} MB, user {proof.user}")
    for run in proof.runs:
        typer.echo(f"{run.model}, {run.scorer}: ready after {run.ready_s:.1f} s, answered {json.dumps(run.prediction)}")
