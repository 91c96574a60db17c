"""The commands of the hand-off: train, import and evaluate a registered model, promote it, load features.

Results go to stdout, events to stderr; an error is one line and exit code 1. What takes long to import is imported by
the command that needs it.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from custom_runtime.errors import StartupError
from handoff.errors import DataError, HandoffError, TrainingRefused

OutputFormat = Literal["text", "json"]
Flavor = Literal["xgboost", "sklearn"]
Table = Annotated[
    Path | None,
    typer.Option(help="CSV or Parquet; default: the contract's reference table, where it has one."),
]


def train(
    data: Table = None,
    flavor: Annotated[Flavor, typer.Option(help="What to train.")] = "xgboost",
    alias: Annotated[str, typer.Option(help="The alias that points at the new version; '' for none.")] = "challenger",
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="METRIC=VALUE: nothing worse on held-out rows is registered. Default: the contract's. Repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same model.")] = 7,
    refit: Annotated[bool, typer.Option(help="Fit on all rows once the evaluation is done.")] = True,
    report: Annotated[Path, typer.Option(help="Where the evaluation is written.")] = Path("var/evaluation"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and measure; register nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Train on a table, measure on held-out rows, and register the model in MLflow.

    The registry is MLFLOW_TRACKING_URI, or the SQLite file var/mlflow.db.

    Example:
    churn-serving train --flavor sklearn
    """
    configure_log()
    with fail_with_one_line():
        floors = _floor(floor)
        from handoff.registered import CHAMPION

        if alias == CHAMPION:
            raise TrainingRefused(
                "the alias champion moves only by churn-serving promote, which compares the two models first; leave "
                "--alias out, then run: churn-serving promote models:/NAME@challenger"
            )
        # Imported here, so that --help does not wait for MLflow and scikit-learn.
        from handoff import training
        from handoff.dataset import read_dataset

        training.check_floor_names(floors or {})
        dataset = read_dataset(data)
        if not dry_run:  # before the model is registered: its evaluation is written there
            report.mkdir(parents=True, exist_ok=True)
            from custom_runtime.active import CONTRACT
            from handoff.registry import Registry

            registry = Registry()
            registry.ensure_experiment(CONTRACT.name)  # a registry that cannot be reached is known before the training
        trained = training.train(dataset, flavor, seed=seed, floor=floors, refit=refit)
        version = page = None
        if not dry_run:
            from handoff.evaluation.versions import evaluate_version, write_evaluation

            version = registry.register(trained, alias=alias or None)
            evaluation = evaluate_version(registry, version.uri)
            page, document = write_evaluation(evaluation, report, version)
            registry.log_evaluation(version, [page, document], evaluation.metrics)
    result = {
        "model": asdict(version) | {"uri": version.uri, "alias": alias or None} if version else None,
        "flavor": trained.flavor,
        "data": trained.source,
        "rows": len(trained.reference.rows),
        "metrics": dict(trained.metrics),
        "refitted": trained.refitted,
        "data_digest": trained.data_digest,
        "evaluation": None if page is None else str(page),
    }
    if output == "json":
        typer.echo(json.dumps(result))
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in trained.metrics.items())
    typer.echo(f"{flavor} on {len(trained.reference.rows):,} rows of {trained.source}; held-out {scores}")
    if version is None:
        typer.echo("dry run: nothing was registered")
    else:
        typer.echo(f"registered {version.uri}" + (f" as models:/{version.name}@{alias}" if alias else ""))
        typer.echo(f"evaluation: {page}")


def _floor(given: list[str] | None) -> dict[str, float] | None:
    """Read METRIC=VALUE options; None: there are none. Raises TrainingRefused."""
    if not given:
        return None
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not name or not math.isfinite(found[name]):
            raise TrainingRefused(f"--floor is {text!r}; allowed: METRIC=VALUE, such as auc=0.8")
    return found


def import_model(
    model_uri: Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>.")],
    directory: Annotated[Path, typer.Option("--output", help="The bundle's directory; replaced atomically.")],
    reference: Annotated[
        Path | None, typer.Option(help="CSV or Parquet rows to compare on; default: those logged with the run.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled rows to evaluate on; default: the held-out rows logged with the run.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the evaluation is written; default: evaluation/ beside the bundle.")
    ] = None,
    stock: Annotated[
        Path | None, typer.Option(help="Also write the file for MLServer's own runtime into this directory.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and compare; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", "--format", help="What is printed.")] = "text",
) -> None:
    """Resolve, check against the contract, convert, compare on every reference row, write the bundle, and evaluate.

    Refuses, and leaves the directory as it is, when the signature differs or any answer is off by more than 1e-5.

    Example:
    churn-serving import models:/churn@champion --output var/bundle
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and ONNX.
        from handoff.evaluation.versions import evaluate_registered, write_evaluation
        from handoff.importing import check_model
        from handoff.registry import Registry
        from handoff.table import open_table
        from handoff.training import write_stock

        report = report or directory.parent / "evaluation"
        for option, place in (("--output", directory), ("--report", report), ("--stock", stock)):
            if place is not None and place.is_file():
                raise DataError(f"{option} is {place}, which is a file; name a directory")
        if data is not None:
            open_table(data)  # a wrong file is refused before the model is converted
        registry = Registry()
        checked = check_model(registry, model_uri, reference=reference)
        stock_file = page = evaluation = None
        not_evaluated = ""
        if not dry_run:
            version = checked.registered.version
            try:
                evaluation = evaluate_registered(registry, checked.registered, data=data)
            except DataError as error:
                if data is not None:  # before anything is written: rows that were named are used, or refused
                    raise
                not_evaluated = str(error)
            checked.write(directory)
            if evaluation is not None:
                page, document = write_evaluation(evaluation, report, version)
                registry.log_evaluation(version, [page, document], evaluation.metrics)
            stock_file = write_stock(checked.model, stock) if stock is not None else None
    version, parity = checked.registered.version, checked.parity
    result = {
        "source": version.uri,
        "version": version.version,
        "run_id": version.run_id,
        "flavor": checked.registered.flavor,
        "rows": parity.rows,
        "max_abs_difference": parity.max_abs_difference,
        "tolerance": parity.tolerance,
        "relative": parity.relative,
        "costs_us": {name: dict(costs) for name, costs in checked.costs_us.items()},
        "evaluation": None if page is None else str(page),
        "bundle": None if dry_run else str(directory),
        "stock": None if stock_file is None else str(stock_file),
    }
    if output == "json":
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"{version.uri} ({checked.registered.flavor}): the converted model agrees within "
        f"{parity.max_abs_difference:.2g} on {parity.rows:,} rows (allowed: {parity.allowed})"
    )
    how = "bit vectors" if checked.forest is not None else "ONNX Runtime"
    typer.echo(f"scored by {how}, one row costs {_costs(checked.costs_us['served'])}" + _beside(checked.costs_us))
    typer.echo("dry run: nothing was written" if dry_run else f"wrote {directory}" + _and(stock_file))
    if page is not None:
        typer.echo(f"evaluation: {page}")
    elif not_evaluated:
        typer.echo(f"not evaluated: {not_evaluated}")


def _costs(costs: Mapping[int, float]) -> str:
    first, *others = costs.items()
    return f"{first[1]:g} us" + "".join(f", {size} rows {cost:g} us" for size, cost in others)


def _beside(costs: Mapping[str, Mapping[int, float]]) -> str:
    others = {"onnx": "ONNX Runtime", "encoded": "its last step alone in ONNX, on encoded rows"}
    return "".join(f"; {label}: {_costs(costs[name])}" for name, label in others.items() if name in costs)


def _and(path: Path | None) -> str:
    return "" if path is None else f" and {path}"


def evaluate(
    model_uri: Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>.")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled CSV or Parquet rows; default: the held-out rows logged with the run.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Where the page and the JSON are written.")] = Path("var/evaluation"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the files; log nothing to the run.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Measure a model on held-out rows, per segment, and beside the champion on the same rows with 95 % intervals.

    Example:
    churn-serving evaluate models:/churn@challenger
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and scikit-learn.
        from handoff.evaluation.versions import evaluate_registered, write_evaluation
        from handoff.registry import Registry

        registry = Registry()
        registered = registry.download(registry.resolve(model_uri))
        evaluation = evaluate_registered(registry, registered, data=data)
        page, document = write_evaluation(evaluation, report, registered.version)
        if not dry_run:
            registry.log_evaluation(registered.version, [page, document], evaluation.metrics)
    if output == "json":
        typer.echo(evaluation.model_dump_json())
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
    typer.echo(f"{evaluation.model} on {evaluation.rows:,} rows of {evaluation.source}: {scores}")
    if evaluation.comparison is not None:
        for found in evaluation.comparison.differences:
            typer.echo(
                f"{found.metric} {found.difference:+.4f} beside the champion {evaluation.comparison.champion} "
                f"(95 % interval {found.low:+.4f} to {found.high:+.4f}): {found.verdict}"
            )
    typer.echo(f"wrote {page} and {document}")


def stack(
    branches: Annotated[
        list[str], typer.Option("--branch", help="NODE=models:/<name>@<alias>: a branch of the graph. Repeatable.")
    ],
    file: Annotated[Path, typer.Option("--output", help="The file of coefficients that the node `join` reads.")],
    name: Annotated[str, typer.Option(help="The registered model's name.")] = "stack",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and write the file; register nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", "--format", help="What is printed.")] = "text",
) -> None:
    """Fit a logistic regression on the held-out answers of several registered models, register it, write its file.

    Example:
    churn-serving stack --branch a=models:/churn/1 --branch b=models:/churn/2 --output var/stack.json
    """
    configure_log()
    pairs = dict(branch.partition("=")[::2] for branch in branches)
    if len(pairs) < 2 or not all(pairs.values()):
        raise typer.BadParameter("give two or more branches as NODE=models:/<name>@<alias>", param_hint="--branch")
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and scikit-learn.
        from handoff import stacking
        from handoff.registry import Registry

        _check_file(file)
        registry = Registry()
        stacked = stacking.stack(registry, pairs)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stacked.to_json())  # first: a version whose file could not be written would stay registered
        version = None if dry_run else registry.register_stack(stacked, name)
    if output == "json":
        losses_of = {of or "stack": value for of, value in stacked.log_loss.items()}
        result = {
            "rows": stacked.rows,
            "log_loss": losses_of,
            "file": str(file),
            "model": asdict(version) | {"uri": version.uri} if version else None,
        }
        typer.echo(json.dumps(result))
        return
    losses = ", ".join(f"{of or 'stack'} {value:.4f}" for of, value in stacked.log_loss.items())
    typer.echo(f"log loss on {stacked.rows:,} held-out rows: {losses}")
    typer.echo(f"wrote {file}" + (f" and registered {version.uri}" if version else ""))


def promote(
    model_uri: Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>.")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled rows to compare on; default: the held-out rows logged with the run.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it also when it is worse or not comparable.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare; move no alias.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Compare a model with the champion on the same rows, and move the alias champion to it.

    Refused when a 95 % interval of a difference (AUC, log loss) lies wholly on the worse side. What is served changes
    with the next import.

    Example:
    churn-serving promote models:/churn@challenger
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for MLflow and scikit-learn.
        from handoff.evaluation.versions import promote as move_champion
        from handoff.registry import Registry

        promotion = move_champion(Registry(), model_uri, data=data, force=force, dry_run=dry_run)
    if output == "json":
        result = {
            "champion": asdict(promotion.version),
            "previous": None if promotion.previous is None else asdict(promotion.previous),
            "moved": not dry_run and promotion.version != promotion.previous,
        }
        typer.echo(json.dumps(result))
        return
    before = "there was none" if promotion.previous is None else f"before: {promotion.previous.uri}"
    if promotion.version == promotion.previous:
        typer.echo(f"{promotion.version.uri} is the champion already")
    elif dry_run:
        typer.echo(f"dry run: {promotion.version.uri} would become the champion ({before})")
    else:
        typer.echo(f"{promotion.version.uri} is the champion ({before})")


def init_contract(
    data: Annotated[Path, typer.Option(help="A CSV or Parquet table with the features and the label.")],
    label: Annotated[str, typer.Option(help="The column with the true outcome.")],
    key: Annotated[
        str | None, typer.Option(help="The column that names a row in the feature store; default: no store is used.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; default: the table's.")] = None,
    file: Annotated[Path, typer.Option("--output", help="The contract to write.")] = Path("contract.py"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the contract; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", "--format", help="What is printed.")] = "text",
) -> None:
    """Write a contract to edit: types, ranges and categories are read off the table, examples filled in.

    What the table cannot decide is printed, one line for each question.

    Example:
    churn-serving contract init --data loans.csv --key account_id --label status
    """
    with fail_with_one_line():
        from handoff.drafting import draft_contract

        _check_file(file)
        if file.exists() and not (force or dry_run):
            raise DataError(f"{file} exists; replace it with --force, or name another file with --output")
        draft = draft_contract(data, key=key, label=label, name=name)
        if not dry_run:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(draft.text, encoding="utf-8")
    if output == "json":
        typer.echo(json.dumps(asdict(draft) | {"file": None if dry_run else str(file)}))
        return
    if dry_run:
        typer.echo(draft.text)
    else:
        decide = ". To decide:" if draft.open_questions else ""
        typer.echo(f"wrote {file}: {draft.name}, {draft.task}, {draft.features} features{decide}")
    for question in draft.open_questions:
        typer.echo(f"- {question}")


def _check_file(file: Path) -> None:
    """Refuse a directory as the file to write. Raises DataError."""
    if file.is_dir():
        raise DataError(f"--output is {file}, which is a directory; name a file in it")


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
    row_numbers: Annotated[
        bool, typer.Option("--row-numbers", help="Load a table that has no usable key column under its row numbers.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What is printed.")] = "text",
) -> None:
    """Read a table in batches, encode it by the contract, write it; readers are served all the while.

    An interrupted load goes on where it stopped when the same command is run again. SQLite's rows are replaced in one
    transaction at the end.

    Example:
    churn-serving features load --store redis://127.0.0.1:6379 --data table.csv
    """
    configure_log()
    with fail_with_one_line():
        # Imported here, so that --help does not wait for them.
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        from handoff import loading

        columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
        screen = Console(stderr=True)
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
            task = bar.add_task("rows", total=None)
            loaded = loading.load_features(
                store,
                data,
                batch_rows=batch_rows,
                as_of=None if as_of is None else as_of.replace(tzinfo=as_of.tzinfo or UTC).timestamp(),
                in_place=in_place,
                dry_run=dry_run,
                row_numbers=row_numbers,
                progress=lambda rows: bar.update(task, completed=rows),
            )
    if output == "json":
        typer.echo(json.dumps(asdict(loaded) | {"dry_run": dry_run}))
    elif dry_run:
        typer.echo(f"dry run: {loaded.rows:,} rows of {loaded.source} are valid; nothing was written")
    else:
        resumed = f" (resumed after {loaded.resumed_at:,})" if loaded.resumed_at else ""
        typer.echo(
            f"wrote {loaded.written:,} rows{resumed} of {loaded.source} to {loaded.store} in {loaded.seconds:.1f} s"
        )


def configure_log() -> None:
    """Send log events to stderr, so that stdout holds nothing but the result."""
    import structlog

    # structlog asks whether stdout is a terminal; these lines go to stderr.
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    processors = [*structlog.get_config()["processors"][:-1], renderer]
    structlog.configure(processors=processors, logger_factory=structlog.PrintLoggerFactory(sys.stderr))


@contextmanager
def fail_with_one_line() -> Iterator[None]:
    """Print errors of this package as one line on stderr with exit code 1; commands/main.py does so for files."""
    try:
        yield
    except (HandoffError, StartupError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
