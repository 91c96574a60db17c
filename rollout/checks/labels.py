"""A gate on labels: the canary's loss against stable's, for products whose labels come within the rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rollout.analysis.labelled import LabelledRow, Loss, LossLimits, judge, row_loss
from rollout.analysis.paired import Answer
from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Ended, Positive, Subject
from rollout.errors import EvidenceError, EvidenceMalformed, EvidenceUnavailable
from rollout.evidence.labels import LabelFile, Request, read_labels
from rollout.evidence.records import RecordedAnswer, read_records


class Labels(Check):
    """Joins a file of labels with the prediction records of both versions by request id, and compares the losses.

    records: the directory of the records. labels: a CSV file that grows at its end, with request_id, row (where a
    request has several) and the column `label`. classes: in the order of the outputs (two: negative, positive); empty
    for a regression. loss: brier or log_loss for classes, absolute for a regression, where largest_error and more cost
    1. look_back_s: how old records may be when a step begins; more than a rollout lasts, for all its labels count.
    contracts: the fingerprints that records and labels may name (`contract_fingerprint` in bundle.json); empty: all
    must name the same one. Two where the canary's contract has other features, and the same label.
    """

    repeats: ClassVar[bool] = True

    kind: Literal["labels"] = "labels"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "labels"
    records: Annotated[str, Field(min_length=1)]
    labels: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1)] = "label"
    classes: tuple[str, ...] = ()
    loss: Loss = "brier"
    largest_error: Positive | None = None
    look_back_s: Positive = 7 * 86_400.0
    contracts: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    timeout_s: Positive = 60.0
    limits: LossLimits = LossLimits()

    @field_validator("classes", mode="before")
    @classmethod
    def _are_texts(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        if any(isinstance(one, bool) for one in value):
            raise ValueError("classes are texts; quote them: YAML reads No and Yes as false and true")
        return tuple(value)

    @field_validator("contracts", mode="before")
    @classmethod
    def _is_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        if self.loss == "absolute" and (self.classes or self.largest_error is None):
            raise ValueError("loss: absolute needs largest_error, and no classes")
        if self.loss != "absolute" and (len(self.classes) < 2 or self.largest_error is not None):
            raise ValueError(f"loss: {self.loss} needs two classes or more, and no largest_error")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"two classes have the same name: {', '.join(self.classes)}")
        return self

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Read all labels and their records, and judge them."""
        try:
            rows = list(self._rows(subject))
        except EvidenceUnavailable as error:
            return self.result(Verdict.NO_DATA, str(error))
        except EvidenceError as error:
            return self.result(Verdict.ERROR, str(error))
        return (judge(self.name, rows, self.limits),)

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        what = f"mean {self.loss.replace('_', ' ')} of its labelled rows"
        return (
            f"the {what} is shown to be more than {self.limits.worse_by:g} above stable's",
            f"it is shown to be less than {self.limits.at_most_worse:g} above",
        )

    def _rows(self, subject: Subject) -> Iterator[LabelledRow]:
        labelled = read_labels(subject.fill(self.labels), self.label)
        labels = labelled.labels
        found = read_records(
            subject.fill(self.records),
            (subject.stable, subject.canary),
            since_s=subject.since_s - self.look_back_s,
            requests={request for request, _ in labels},
        )
        self._check_contracts(found, labelled)
        answers: dict[tuple[str, Request], Answer] = {}
        for one in sorted(found, key=lambda one: one.at_s):
            if one.answer.scores:
                answers.setdefault((one.predictor, one.request), one.answer)
        for request, text in labels.items():
            stable, canary = (answers.get((arm, request)) for arm in (subject.stable, subject.canary))
            if stable is not None or canary is not None:
                truth = self._truth(text)
                yield LabelledRow(self._loss_of(stable, truth), self._loss_of(canary, truth))

    def _check_contracts(self, found: Sequence[RecordedAnswer], labelled: LabelFile) -> None:
        """Raise EvidenceMalformed for records or labels of a contract that is not allowed."""
        pairs = sorted({(one.predictor, one.contract) for one in found})
        of_records = {contract for _, contract in pairs}
        said = ", ".join(f"{predictor} of {contract or 'none'}" for predictor, contract in pairs)
        named = ", ".join(self.contracts)
        if self.contracts and of_records - set(self.contracts):
            raise EvidenceMalformed(f"records of contracts that are not allowed: {said}; `contracts`: {named}")
        if not self.contracts and len(of_records) > 1:
            raise EvidenceMalformed(
                f"the records are of several contracts: {said}; they are compared only where `contracts` names them all"
            )
        allowed = set(self.contracts) or of_records
        if allowed and (others := labelled.contracts - allowed):
            limit = f"`contracts`: {named}" if named else f"the records are of {''.join(of_records) or 'none'}"
            raise EvidenceMalformed(f"{labelled.path} has labels of contract {', '.join(sorted(others))}; {limit}")
        if not allowed and len(labelled.contracts) > 1:
            raise EvidenceMalformed(
                f"{labelled.path} has labels of several contracts: {', '.join(sorted(labelled.contracts))}"
            )

    def _truth(self, text: str) -> float:
        if self.classes:
            if text not in self.classes:
                raise EvidenceMalformed(f"a label is {text!r}; allowed: {', '.join(self.classes)}, or blank")
            return float(self.classes.index(text))
        try:
            return float(text)
        except ValueError as error:
            raise EvidenceMalformed(f"a label is {text!r}; allowed: a number, or blank") from error

    def _loss_of(self, answer: Answer | None, truth: float) -> float | None:
        if answer is None:
            return None
        wanted = (len(self.classes),) if len(self.classes) > 2 else (1,) if self.classes else (1, 3)
        if len(answer.scores) not in wanted:
            raise EvidenceMalformed(
                f"a record has {len(answer.scores)} scores; wanted for classes {list(self.classes)}: {wanted[0]}"
            )
        return row_loss(self.loss, answer.scores, truth, largest_error=self.largest_error or 1.0)
