"""Labels as evidence: a CSV file that grows at its end, joined with the prediction records by request id."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rollout.errors import EvidenceMalformed, EvidenceUnavailable

REQUEST_ID: Final = "request_id"
ROW: Final = "row"

Request = tuple[str, int]


def read_labels(file: str, column: str) -> Mapping[Request, str]:
    """Return the label of each request (id and row), in the file's order; blank ones are left out, the first counts.

    A later label for the same request is ignored: what was judged once must not change. Raises EvidenceUnavailable
    where there is no file yet, EvidenceMalformed for one without the columns.
    """
    path = Path(file.removeprefix("file://"))
    labels: dict[Request, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            present = reader.fieldnames or ()
            if missing := [name for name in (REQUEST_ID, column) if name not in present]:
                raise EvidenceMalformed(
                    f"{path} has no column {', '.join(missing)}; its columns: {', '.join(present) or 'none'}"
                )
            for number, line in enumerate(reader, start=2):
                text = (line[column] or "").strip()
                if text and line[REQUEST_ID]:
                    labels.setdefault((line[REQUEST_ID].strip(), _row(line.get(ROW), path, number)), text)
    except FileNotFoundError as error:
        raise EvidenceUnavailable(f"{path} does not exist; labels are expected there") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvidenceMalformed(f"{path} cannot be read as labels: {error}") from error
    return labels


def _row(text: str | None, path: Path, number: int) -> int:
    try:
        return int(text) if text and text.strip() else 0
    except ValueError as error:
        raise EvidenceMalformed(f"{path}, line {number}: row is {text!r}; allowed: an integer") from error
