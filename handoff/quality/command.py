"""`churn-serving quality`: records and late labels -> a page, JSON and Prometheus text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from handoff.commands import OutputFormat, configure_log, fail_with_one_line
from handoff.errors import DataError


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
    push: Annotated[str | None, typer.Option(help="A Pushgateway that gets the metrics: http://host:port.")] = None,
    rewards: Annotated[
        Path | None, typer.Option(help="The file of a router with `route: thompson`, written from the same labels.")
    ] = None,
    child: Annotated[
        list[str] | None,
        typer.Option(help="A child of that router; repeat it for each. Without: the models in the records."),
    ] = None,
    output: Annotated[OutputFormat, typer.Option("-o", "--format", help="What is printed.")] = "text",
) -> None:
    """Join labels with the predictions that they belong to, and measure each version.

    Writes quality.html, quality.json and quality.prom. Records and labels of another contract are refused. With
    --rewards, the counts for a router's Thompson sampling are written too: of each model in the records.

    Example:
    churn-serving quality --records /var/records --labels churned.csv --bundle var/bundle
    """
    configure_log()
    with fail_with_one_line():
        from handoff.quality.checking import check_quality, read_joined, write_quality
        from handoff.quality.exposition import push_metrics

        joined = read_joined(
            records,
            labels,
            horizon=timedelta(days=horizon_days),
            since=None if since is None else since.replace(tzinfo=since.tzinfo or UTC),
            salt=None if salt_file is None else _salt(salt_file),
        )
        if rewards is not None:
            from handoff.quality.rewards import reward_counts, write_rewards

            write_rewards(reward_counts(joined.labelled.records, child or ()), rewards)
        found = check_quality(joined, bundle=bundle, period=period)
        page = write_quality(found, directory)
        if push is not None:
            push_metrics(found, push)
    if output == "json":
        typer.echo(found.model_dump_json())
        return
    for version in found.versions:
        measured = [
            f"{name} {measure.value:.4f} ({measure.low:.4f} to {measure.high:.4f})"
            for name, measure in version.overall.measures.items()
            if measure.value is not None
        ]
        typer.echo(
            f"version {version.version}: {version.overall.labels:,} labels, "
            + (", ".join(measured) or "too few to measure anything")
        )
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"page: {page}")


def _salt(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read: {error}; allowed: a file with the salt of SERVING_RECORD_SALT"
        ) from error
