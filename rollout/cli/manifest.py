"""`churn-serving manifest`: validates SeldonDeployments, renders one for a version, computes capacity."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from rollout.errors import ManifestError
from rollout.manifest.capacity import read_capacity
from rollout.manifest.parsing import read_documents
from rollout.manifest.problems import Problem, error
from rollout.manifest.rendering import BASE, Rendering, bundle_version, kustomized, rendered_objects
from rollout.manifest.seldon import KIND
from rollout.manifest.service_checks import find_problems

Output = Literal["text", "json"]


def validate(
    files: Annotated[list[str], typer.Argument(help="Manifests; - is standard input. Other kinds are skipped.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Print every problem with its path and what is allowed. Exit code 1 when there is an error.

    Example:
    kubectl kustomize seldon/overlays/production | churn-serving manifest validate -
    """
    found = [(file, name, problem) for file in files for name, problem in _findings_of(file)]
    if output == "json":
        typer.echo(json.dumps([{"file": file, "name": name} | problem.to_dict() for file, name, problem in found]))
    else:
        for file, name, problem in found:
            typer.echo(": ".join(part for part in (file, name, str(problem)) if part))
        errors = sum(problem.severity == "error" for _, _, problem in found)
        typer.echo(f"{_counted(errors, 'error')}, {_counted(len(found) - errors, 'warning')}", err=True)
    if any(problem.severity == "error" for _, _, problem in found):
        raise typer.Exit(1)


def render(
    version: Annotated[str, typer.Option(help="The registered model version; default: the bundle's.")] = "",
    image: Annotated[str, typer.Option(help="Default: the overlay's, with VERSION as its tag.")] = "",
    model_uri: Annotated[
        str, typer.Option(help="s3://..., where the bundle is fetched from; none: the image contains it.")
    ] = "",
    bundle: Annotated[Path | None, typer.Option(help="A bundle directory, to take or check the version.")] = None,
    namespace: Annotated[str, typer.Option(help="Default: the overlay's.")] = "",
    model: Annotated[
        str, typer.Option(help="Another contract's model: names container, graph and probes. Default: the overlay's.")
    ] = "",
    name: Annotated[str, typer.Option(help="The SeldonDeployment's name. Default: the overlay's.")] = "",
    overlay: Annotated[Path, typer.Option(help="The kustomization that is filled in.")] = BASE,
    everything: Annotated[
        bool, typer.Option("--all", help="All objects of the overlay, not the SeldonDeployment alone.")
    ] = False,
    surroundings: Annotated[
        bool,
        typer.Option("--surroundings", help="All objects but the SeldonDeployment, which belongs to the rollouts."),
    ] = False,
    output: Annotated[Literal["yaml", "json"], typer.Option("--output", "-o", help="What is printed.")] = "yaml",
) -> None:
    """Write the deployment of one model version to standard output. Exit code 1 when it would be refused.

    Example:
    churn-serving manifest render --version 7 --image churn-serving:7 --namespace churn
    """
    if everything and surroundings:
        raise typer.BadParameter("--all and --surroundings exclude each other; give one of them")
    if name and (everything or surroundings):
        raise typer.BadParameter(
            "--name renames the SeldonDeployment alone, and policies and budgets select its pods by name; make an "
            "overlay with their new names, and leave --name out"
        )
    try:
        template = kustomized(overlay)
        # The surroundings carry no version.
        given = version or ("1" if surroundings else "")
        number = _version(given, bundle, model=model or _model_of(template))
        objects = rendered_objects(template, Rendering(number, image, model_uri, namespace, model, name))
    except ManifestError as wrong:
        raise _failed(str(wrong)) from wrong
    (deployment,) = (one for one in objects if one["kind"] == KIND)
    problems = (problem for problem in find_problems(deployment) if problem.severity == "error")
    refused = [": ".join(part for part in (problem.path, problem.message) if part) for problem in problems]
    if refused:
        raise _failed("; ".join(refused))
    chosen = list(objects) if everything else [one for one in objects if (one is deployment) is not surroundings]
    if output == "json":
        typer.echo(json.dumps(chosen if everything or surroundings else deployment, indent=2))
    else:
        typer.echo(yaml.safe_dump_all(chosen, sort_keys=False, width=120), nl=False)


def capacity(
    file: Annotated[Path, typer.Argument(help="The measured figures and the assumptions.")] = Path(
        "seldon/capacity.yaml"
    ),
    output: Annotated[Output, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Derive the autoscaler's numbers from what one core measured.

    Example:
    churn-serving manifest capacity
    """
    try:
        derived = read_capacity(file)
    except ManifestError as wrong:
        raise _failed(str(wrong)) from wrong
    result = {
        "rps_per_pod": round(derived.pod_rps),
        "usable_rps_per_pod": round(derived.usable_rps),
        "minReplicas": derived.min_replicas,
        "maxReplicas": derived.max_replicas,
        "averageUtilization": derived.target_utilisation_percent,
    }
    typer.echo(
        json.dumps(result) if output == "json" else "\n".join(f"{key}: {value}" for key, value in result.items())
    )


def _findings_of(file: str) -> list[tuple[str, Problem]]:
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        objects = [one for one in read_documents(text) if one.get("kind") == KIND]
    except OSError as wrong:
        return [("", error("", f"cannot be read: {wrong.strerror or wrong}"))]
    except ManifestError as wrong:
        return [("", error("", str(wrong)))]
    if not objects:
        return [("", error("", f"there is no {KIND} in it"))]
    return [(_name(one), problem) for one in objects for problem in find_problems(one)]


def _name(document: dict[str, Any]) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _model_of(template: tuple[dict[str, Any], ...]) -> str:
    """Return the name of the model that the template's deployment serves: that of its first predictor's graph."""
    deployment = next((one for one in template if one.get("kind") == KIND), {})
    predictors = deployment.get("spec", {}).get("predictors") or [{}]
    return str(predictors[0].get("graph", {}).get("name", ""))


def _version(version: str, bundle: Path | None, *, model: str) -> str:
    imported = bundle_version(bundle, model=model) if bundle is not None else version
    if not imported:
        raise ManifestError("no version: give --version 7, or --bundle var/bundle to take it from there")
    if version and version != imported:
        raise ManifestError(f"--version is {version}, the bundle {bundle} has version {imported}; give one of them")
    return imported


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _failed(message: str) -> typer.Exit:
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(1)
