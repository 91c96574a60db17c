"""Labels that came late -> the predictions that they belong to.

A label names its prediction by request id (and the row in the request, where that has several), or by key and time:
then it belongs to the last prediction for that key before the label's time, and within the horizon. Both hold for each
version by itself: what a shadow or a canary has predicted is evidence for it, whatever another version has predicted.

One directory may hold records with plain keys, with hashed ones and without any: a setting was changed, or pods differ.
Each is joined by what it has; what no label can find is named in `Joined.notes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from custom_runtime.active import CONTRACT
from custom_runtime.records.record import key_hash
from handoff.columns import snake_case
from handoff.errors import DataError

REQUEST_ID, ROW, TIME, VERSION, CONTRACT_COLUMN = "request_id", "row", "time", "version", "contract"


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions with their labels.

    records: those that have a label, in the order of time, with two columns added. `truth`: the class's place, or the
    value; `customer`: the same for all records of one key, None where the record names none. labels: how many were
    given. unmatched: labels without a prediction. superseded: labels that a later one for the same predictions has
    replaced. notes: which predictions no label could find, and why.
    """

    records: pd.DataFrame
    labels: int
    unmatched: int
    superseded: int
    by: str
    notes: tuple[str, ...] = ()


def read_labels(path: Path) -> pd.DataFrame:
    """Read labels, CSV or Parquet, with names in snake_case. Raises DataError.

    Labels that name a contract's fingerprint, in the column `contract` or in Parquet's metadata, must name this one.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; allowed: a CSV or Parquet file of labels")
    try:
        if path.suffix in (".parquet", ".pq"):
            table = pq.read_table(path)
            named = (table.schema.metadata or {}).get(b"contract")
            if named is not None:
                _check_contract(path, {named.decode()})
            frame: Any = table.to_pandas()
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as labels: {error}") from error
    frame.columns = [snake_case(str(name)) for name in frame.columns]
    if CONTRACT_COLUMN in frame:
        _check_contract(path, set(frame[CONTRACT_COLUMN].astype(str)))
    label = snake_case(str(CONTRACT.label))
    if label not in frame:
        raise DataError(f"{path} has no column {label!r}; present: {', '.join(frame.columns)}")
    read = _values if CONTRACT.task.kind == "regression" else _places
    frame["truth"] = read(frame[label], path)
    known: pd.DataFrame = frame.dropna(subset=["truth"])
    return known


def join(records: pd.DataFrame, labels: pd.DataFrame, *, horizon: timedelta, salt: str | None = None) -> Joined:
    """Join labels with records. horizon: how long after its prediction a label may come, by key and time.

    salt: of the hashed keys, where the records have some. Raises DataError.
    """
    records = records.assign(customer=_customers(records, salt))
    if REQUEST_ID in labels:
        found, notes, by = _by_request(records, labels), _without_request_id(records), "request id"
    else:
        (found, notes), by = _by_key(records, labels, horizon, salt), "key and time"
    matched = found["label"].nunique()
    last = found.sort_values([TIME, "label"], kind="stable").drop_duplicates("record", keep="last")
    joined = last.sort_values(TIME, kind="stable").reset_index(drop=True)
    superseded = matched - last["label"].nunique()
    return Joined(joined, len(labels), len(labels) - matched, superseded, by, tuple(notes))


def _customers(records: pd.DataFrame, salt: str | None) -> Any:
    """Return what identifies each record's customer: with the salt, a plain key and its hash are the same one."""
    plain, hashed = records["key"], records["key_hash"]
    if salt is not None and hashed.notna().any():
        plain = plain.map({key: key_hash(salt, key) for key in plain.dropna().unique()})
    return hashed.where(hashed.notna(), plain)


def _by_request(records: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    wanted = labels.assign(label=np.arange(len(labels)), **{REQUEST_ID: labels[REQUEST_ID].astype(str)})
    wanted[ROW] = _rows(labels[ROW]) if ROW in labels else 0
    wanted = wanted[["label", "truth", REQUEST_ID, ROW]]
    numbered = records.assign(record=np.arange(len(records)))
    # A caller knows one of the two ids of a V2 request.
    parts = []
    for name in (REQUEST_ID, "inference_id"):
        named = numbered.dropna(subset=[name])
        left = named.drop(columns=[REQUEST_ID]).assign(**{REQUEST_ID: named[name].astype(str)})
        parts.append(left.merge(wanted, on=[REQUEST_ID, ROW], how="inner"))
    return pd.concat(parts, ignore_index=True).drop_duplicates(["record", "label"])


def _rows(given: Any) -> Any:
    """Return the rows' numbers; a blank one is 0."""
    texts = given.astype(str).str.strip()
    numbers = pd.to_numeric(texts.where(~texts.isin(_BLANK), "0"), errors="coerce")
    if len(wrong := texts[~(numbers % 1 == 0) | (numbers < 0)]):
        raise DataError(f"a row is {wrong.iloc[0]!r}; allowed: an integer from 0 on, or blank")
    return numbers.astype(np.int64)


def _without_request_id(records: pd.DataFrame) -> list[str]:
    count = int((records[REQUEST_ID].isna() & records["inference_id"].isna()).sum())
    if not count:
        return []
    return [
        f"{count:,} of {len(records):,} predictions have no request id (no x-request-id, no V2 id), so no label by "
        "request id can belong to them."
    ]


def _by_key(
    records: pd.DataFrame, labels: pd.DataFrame, horizon: timedelta, salt: str | None
) -> tuple[pd.DataFrame, list[str]]:
    key = CONTRACT.key
    if key is None or snake_case(key) not in labels or TIME not in labels:
        raise DataError(
            f"the labels have neither {REQUEST_ID!r} nor both {key!r} and {TIME!r}; "
            f"present: {', '.join(labels.columns)}"
        )
    hashed = int(records["key_hash"].notna().sum())
    without_key = int((records["key"].isna() & records["key_hash"].isna()).sum())
    if without_key == len(records):
        raise DataError("the records name no keys (SERVING_RECORD_KEY=omitted): labels must have request ids")
    if hashed and salt is None:
        many = "the records have hashed keys" if hashed == len(records) else (
            f"{hashed:,} of {len(records):,} records have hashed keys"
        )  # fmt: skip
        raise DataError(f"{many}; give the salt of SERVING_RECORD_SALT with --salt-file")
    texts = labels[snake_case(key)].astype(str).str.strip()
    if hashed and salt is not None:
        texts = texts.map({text: key_hash(salt, text) for text in texts.unique()})
    notes = []
    if without_key:
        notes.append(
            f"{without_key:,} of {len(records):,} predictions name no key (SERVING_RECORD_KEY=omitted), so no label "
            "by key and time can belong to them."
        )
    if hashed and not records["key_hash"].isin(set(texts)).any():
        strange = (
            f"one of the {hashed:,} hashed keys in the records is that of a label: is the salt the one of "
            "SERVING_RECORD_SALT?"
        )
        if hashed == len(records):
            raise DataError(f"n{strange}")
        notes.append(f"N{strange}")
    return _last_before(records, texts, labels, horizon), notes


def _last_before(records: pd.DataFrame, customers: Any, labels: pd.DataFrame, horizon: timedelta) -> pd.DataFrame:
    """Return, for each label and each version, the customer's last record before the label's time."""
    wanted = pd.DataFrame(
        {
            "label": np.arange(len(labels)),
            "truth": labels["truth"].to_numpy(),
            "customer": customers.to_numpy(),
            "at": _times(labels),
        }
    )
    held = records.assign(record=np.arange(len(records)), at=records[TIME].astype("datetime64[us, UTC]"))
    held = held.dropna(subset=["customer"]).astype({"customer": object})
    wanted = wanted.astype({"customer": object})
    # Each label once for each version, so that a shadow's record takes no label from the champion's.
    wanted = wanted.merge(held[[VERSION]].drop_duplicates(), how="cross")
    matched = pd.merge_asof(
        wanted.sort_values("at", kind="stable"),
        held.sort_values("at", kind="stable"),
        on="at",
        by=["customer", VERSION],
        direction="backward",
        tolerance=pd.Timedelta(horizon),
    )
    return matched.dropna(subset=["record"])


def _times(labels: pd.DataFrame) -> Any:
    try:
        times = pd.to_datetime(labels[TIME], utc=True).astype("datetime64[us, UTC]")
    except (ValueError, TypeError) as error:
        raise DataError(f"the labels' {TIME!r} cannot be read: {error}; allowed: ISO 8601") from error
    if count := int(times.isna().sum()):
        raise DataError(f"{count:,} of {len(labels):,} labels has no {TIME!r}; allowed: ISO 8601")
    return times.array


_BLANK = ("", "nan", "None", "NaN", "null")


def _places(labels: Any, path: Path) -> Any:
    """Return each label's class as a number, NaN where the cell is blank: not known yet."""
    known: dict[str, float] = {}
    for text in labels.astype(str).str.strip().unique():
        place = None if text in _BLANK else CONTRACT.task.place_of(text)
        if place is None and text not in _BLANK:
            raise DataError(f"{path}: a label is {text!r}; allowed: {', '.join(CONTRACT.task.classes)}, or blank")
        known[text] = np.nan if place is None else float(place)
    return labels.astype(str).str.strip().map(known).astype(np.float64)


def _values(labels: Any, path: Path) -> Any:
    """Return each label's value, NaN where the cell is blank."""
    texts = labels.astype(str).str.strip()
    values = pd.to_numeric(texts.where(~texts.isin(_BLANK)), errors="coerce")
    if len(wrong := texts[~np.isfinite(values) & ~texts.isin(_BLANK)]):
        raise DataError(f"{path}: a label is {wrong.iloc[0]!r}; allowed: a finite number, or blank")
    return values.astype(np.float64)


def _check_contract(path: Path, named: set[str]) -> None:
    others = named - {CONTRACT.fingerprint, ""}
    if others:
        raise DataError(f"{path} has labels of contract {', '.join(sorted(others))}; this is {CONTRACT.fingerprint}")
