"""Labels as evidence: a CSV file that grows at its end, joined with the prediction records by request id."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollout.errors import EvidenceMalformed, EvidenceUnavailable

REQUEST_ID: Final = "request_id"
ROW: Final = "row"
CONTRACT: Final = "contract"

Request = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LabelFile:
    """What a file of labels holds. labels: request (id and row) -> label, in the file's order.

    contracts: the fingerprints that its column `contract` names; empty where it has none.
    """

    path: Path
    labels: Mapping[Request, str]
    contracts: frozenset[str]


def read_labels(file: str, column: str) -> LabelFile:
    """Read the labels; blank ones are left out, and of several for one request the first counts.

    A last line without a line end is left out too.

    A later label for the same request is ignored: what was judged once must not change. Raises EvidenceUnavailable
    where there is no file yet, EvidenceMalformed for one without the columns.
    """
    path = Path(file.removeprefix("file://"))
    labels: dict[Request, str] = {}
    contracts: set[str] = set()
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            text = stream.read()
            # A line without its end is still being written: "12" may become "123", and would have been judged.
            reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1] or text, newline=""))
            present = reader.fieldnames or ()
            if missing := [name for name in (REQUEST_ID, column) if name not in present]:
                raise EvidenceMalformed(
                    f"{path} has no column {', '.join(missing)}; its columns: {', '.join(present) or 'none'}"
                )
            for number, line in enumerate(reader, start=2):
                text = (line[column] or "").strip()
                if text and line[REQUEST_ID]:
                    labels.setdefault((line[REQUEST_ID].strip(), _row(line.get(ROW), path, number)), text)
                    contracts.add((line.get(CONTRACT) or "").strip())
    except FileNotFoundError as error:
        raise EvidenceUnavailable(f"{path} does not exist; labels are expected there") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvidenceMalformed(f"{path} cannot be read as labels: {error}") from error
    return LabelFile(path, labels, frozenset(contracts - {""}))


def _row(text: str | None, path: Path, number: int) -> int:
    try:
        return int(text) if text and text.strip() else 0
    except ValueError as error:
        raise EvidenceMalformed(f"{path}, line {number}: row is {text!r}; allowed: an integer") from error
