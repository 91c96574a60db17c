"""Import a registered model: check it, convert it to ONNX, prove that both agree, write the bundle that is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from handoff.console import OutputFormat, configure_log, fail_with_one_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: python scripts/import_model.py models:/churn@champion --output var/bundle")
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


if __name__ == "__main__":
    app()
