"""`churn-serving quality`: records and late labels -> a page, JSON and Prometheus text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from handoff.commands import OutputFormat, configure_log, fail_with_one_line


def quality(
    records: Annotated[Path, typer.Option(help="The directory of SERVING_RECORDS=file://...")],
    labels: Annotated[Path, typer.Option(help="Late labels, CSV or Parquet: request_id (and row), or key and time.")],
    directory: Annotated[Path, typer.Option("--output", help="Where page, JSON and metrics are written.")] = Path(
        "var/quality"
    ),
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle, for the training profile that drift is measured against.")
    ] = None,
    horizon_days: Annotated[
        float, typer.Option(help="How long after its prediction a label may come, by key and time.", min=0.001)
    ] = 90.0,
    since: Annotated[datetime | None, typer.Option(help="Only predictions from this time on (UTC).")] = None,
    period: Annotated[str, typer.Option(help="The width of the periods over time: 1D, 7D, 1h, ...")] = "7D",
    salt_file: Annotated[
        Path | None, typer.Option(help="The salt of SERVING_RECORD_SALT, for records with hashed keys.")
    ] = None,
    output: Annotated[OutputFormat, typer.Option("-o", help="What is printed.")] = "text",
) -> None:
    """Join labels with the predictions that they belong to, and measure each version.

    Writes quality.html, quality.json and quality.prom. Records and labels of another contract are refused.

    Example:
    churn-serving quality --records /var/records --labels churned.csv --bundle var/bundle
    """
    configure_log()
    with fail_with_one_line():
        from handoff.quality.checking import check_quality, write_quality

        found = check_quality(
            records,
            labels,
            bundle=bundle,
            horizon=timedelta(days=horizon_days),
            since=None if since is None else since.replace(tzinfo=since.tzinfo or UTC),
            period=period,
            salt=None if salt_file is None else salt_file.read_text().strip(),
        )
        page = write_quality(found, directory)
    if output == "json":
        typer.echo(found.model_dump_json())
        return
    for version in found.versions:
        measured = version.overall.measures
        typer.echo(
            f"version {version.version}: {version.overall.labels:,} labels, "
            + ", ".join(
                f"{name} {measure.value:.4f} ({measure.low:.4f} to {measure.high:.4f})"
                for name, measure in measured.items()
                if measure.value is not None
            )
        )
    typer.echo(f"page: {page}")
