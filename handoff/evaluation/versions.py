"""Evaluates registered versions: selects rows, answers and champion; and moves the champion alias.

A model that was fitted again on all rows has no held-out rows left. So training keeps, beside its rows, what the model
that was fitted without the held-out ones answered on them, and those answers are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from handoff.conversion.columns import Floats
from handoff.conversion.convert import answers_of
from handoff.dataset import read_dataset
from handoff.errors import DataError, HandoffError, PromotionRefused, RegistryError
from handoff.evaluation.evaluating import Champion, evaluate
from handoff.evaluation.report import page
from handoff.evaluation.results import Evaluation
from handoff.importing import TARGET, ModelSource, check_signature
from handoff.registered import CHAMPION, ModelVersion, RegisteredModel

TRAINED_ON_THEM = "The champion may have been trained on these rows, which makes it look better than it is."
REFITTED = (
    "Held-out rows of the training, answered by the model that was fitted without them; the registered model was "
    "fitted on all rows afterwards."
)
HELD_OUT = "Held-out rows of the training."
ALL_ROWS = "The rows were given for the evaluation; whether the model was trained on them is not known here."


class PromotingSource(ModelSource, Protocol):
    """A registry whose aliases can be moved."""

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias at a version."""


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows to evaluate on. answers: of the model, float64 [n, outputs]. is_held_out: logged by the training."""

    rows: NDArray[np.float32]
    truth: NDArray[Any]
    answers: Floats
    source: str
    note: str
    is_held_out: bool


@dataclass(frozen=True, slots=True)
class Promotion:
    """The decision. evaluation: None when it was forced without labelled rows."""

    version: ModelVersion
    previous: ModelVersion | None
    evaluation: Evaluation | None


def evaluate_version(source: ModelSource, uri: str, *, data: Path | None = None) -> Evaluation:
    """Evaluate a registered version beside the champion.

    data: labelled rows (CSV or Parquet); by default the held-out rows that were logged with the run.
    Raises DataError when there are no labelled rows, RegistryError, ImportRefused.
    """
    return evaluate_registered(source, source.download(source.resolve(uri)), data=data)


def evaluate_registered(source: ModelSource, registered: RegisteredModel, *, data: Path | None = None) -> Evaluation:
    """Evaluate a downloaded version, as evaluate_version does."""
    inputs = check_signature(registered)
    labelled = _labelled(registered, data)
    return evaluate(
        TARGET,
        CONTRACT.features,
        labelled.rows,
        labelled.truth,
        labelled.answers,
        model=registered.version.uri,
        source=labelled.source,
        note=labelled.note,
        score=lambda rows: answers_of(registered.model, inputs, TARGET, rows),
        champion=_champion(source, registered.version, labelled),
    )


def write_evaluation(evaluation: Evaluation, directory: Path, version: ModelVersion) -> tuple[Path, Path]:
    """Write the page and the JSON; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{version.name}-{version.version}"
    html, json = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.json")
    html.write_text(page(evaluation), encoding="utf-8")
    json.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return html, json


def promote(
    source: PromotingSource, uri: str, *, data: Path | None = None, force: bool = False, dry_run: bool = False
) -> Promotion:
    """Point the alias champion at a version, unless it is significantly worse than the champion of today.

    force: promote it all the same. dry_run: decide, and move nothing. Raises PromotionRefused naming the metrics,
    RegistryError, DataError.
    """
    version = source.resolve(uri)
    previous = _current(source, version.name)
    if previous == version:
        return Promotion(version, previous, None)
    evaluation: Evaluation | None = None
    try:
        evaluation = evaluate_version(source, version.uri, data=data)
    except DataError as error:
        if previous is not None and not force:
            raise PromotionRefused(
                f"{version.uri} cannot be compared with the champion {previous.uri}: {error}; give labelled rows with "
                "--data FILE, or promote it without a comparison: --force"
            ) from error
    if evaluation is not None and previous is not None and not force:
        _refuse_worse(evaluation, version, previous)
    if not dry_run:
        source.set_alias(version, CHAMPION)
    return Promotion(version, previous, evaluation)


def _refuse_worse(evaluation: Evaluation, version: ModelVersion, previous: ModelVersion) -> None:
    if evaluation.comparison is None:
        raise PromotionRefused(
            f"the champion {previous.uri} does not answer this contract, so {version.uri} cannot be compared with it; "
            "--force promotes it anyway"
        )
    worse = [
        f"{found.metric} {found.model:.4f} against {found.champion:.4f} "
        f"(difference {found.difference:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f})"
        for found in evaluation.comparison.worse
    ]
    if worse:
        raise PromotionRefused(
            f"{version.uri} is significantly worse than the champion {previous.uri} on the same "
            f"{evaluation.comparison.rows:,} rows: {'; '.join(worse)}; --force promotes it anyway"
        )


def _labelled(registered: RegisteredModel, data: Path | None) -> LabelledRows:
    inputs = check_signature(registered)
    if data is not None:
        dataset = read_dataset(data)
        truth = _truth(dataset.labels)
        answers = answers_of(registered.model, inputs, TARGET, dataset.rows)
        return LabelledRows(dataset.rows, truth, answers, dataset.source, ALL_ROWS, is_held_out=False)
    reference = registered.reference
    if reference is None or reference.labels is None or reference.held_out is None:
        raise DataError(f"the run of {registered.version.uri} has no labelled rows; give some with --data FILE")
    chosen = reference.held_out
    rows = np.ascontiguousarray(reference.rows[chosen])
    truth = _truth(reference.labels[chosen])
    if reference.held_out_answers is not None:
        answers, note = reference.held_out_answers, REFITTED
    else:
        answers, note = answers_of(registered.model, inputs, TARGET, rows), HELD_OUT
    return LabelledRows(rows, truth, answers, f"the run {registered.version.run_id}", note, is_held_out=True)


def _truth(labels: NDArray[Any]) -> NDArray[Any]:
    return labels.astype(np.float64 if TARGET.kind == "regression" else np.int64)


def _champion(source: ModelSource, version: ModelVersion, labelled: LabelledRows) -> Champion | None:
    """Return the champion's answers on the same rows; None when there is none, or it is this version."""
    current = _current(source, version.name)
    if current is None or current == version:
        return None
    champion = source.download(current)
    reference = champion.reference
    is_same_split = (
        labelled.is_held_out
        and reference is not None
        and reference.held_out is not None
        and reference.held_out_answers is not None
        and np.array_equal(reference.rows[reference.held_out], labelled.rows)
    )
    if is_same_split and reference is not None and reference.held_out_answers is not None:
        return Champion(current.uri, reference.held_out_answers)
    try:
        inputs = check_signature(champion)
    except HandoffError:
        return None  # a champion of another contract cannot answer these rows
    answers = answers_of(champion.model, inputs, TARGET, labelled.rows)
    return Champion(current.uri, answers, TRAINED_ON_THEM)


def _current(source: ModelSource, name: str = CONTRACT.name) -> ModelVersion | None:
    try:
        return source.resolve(f"models:/{name}@{CHAMPION}")
    except RegistryError:
        return None
