"""A drafted contract is one that loads; what the table cannot decide is asked, not guessed in silence."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.main import app
from custom_runtime.active import load_contract
from custom_runtime.schema import Contract
from handoff.drafting import Draft, draft_contract
from handoff.errors import DataError

LOANS = """account_id,Status,homeOwner,income,term,1st_loan,class,opened,constant,rooms,active
A-1,good,yes,100.5,12,0,x,2020-01-01,EU,3,true
A-2,good,no,,24,1,y,2020-01-02,EU,NA,false
A-3,bad,,300.25,36,0,x,2020-01-03,EU,2,true
"""


def drafted(tmp_path: Path, text: str = LOANS, **options: str | None) -> tuple[Draft, Contract]:
    table = tmp_path / "loans.csv"
    table.write_text(text)
    draft = draft_contract(table, **{"key": "account_id", "label": "Status", **options})  # type: ignore[arg-type]
    made = tmp_path / "made.py"
    made.write_text(draft.text)
    return draft, load_contract(str(made))


def test_types_ranges_and_categories_are_the_tables(tmp_path: Path) -> None:
    draft, contract = drafted(tmp_path)
    assert (contract.name, contract.label, contract.key) == ("loans", "Status", "account_id")
    assert contract.key_field is not None
    assert (contract.key_field.is_text, contract.key_field.example) == (True, "A-1")
    found = {feature.name: feature for feature in contract.features}
    assert {name: (feature.kind, feature.nullable) for name, feature in found.items()} == {
        "home_owner": ("category", True),
        "income": ("number", True),
        "term": ("integer", False),
        "column_1st_loan": ("integer", False),
        "class_": ("category", False),
        "opened": ("category", False),
        "rooms": ("integer", True),
        "active": ("boolean", False),
    }
    assert found["home_owner"].categories == ("no", "yes")
    assert found["home_owner"].codes == ("no", "yes", None)
    assert [origin.column for origin in found["class_"].origins] == ["class"]
    assert [origin.column for origin in found["column_1st_loan"].origins] == ["1st_loan"]
    assert found["income"].minimum == 0
    assert found["income"].maximum > 300.25
    assert found["income"].example == 100.5
    assert (found["column_1st_loan"].minimum, found["column_1st_loan"].maximum) == (0, 1)
    assert draft.features == 8


def test_what_it_could_not_decide_is_said_and_stands_in_the_file(tmp_path: Path) -> None:
    draft, contract = drafted(tmp_path)
    assert draft.left_out == ("constant",)
    assert (contract.task.kind, contract.task.classes) == ("binary", ("good", "bad"))
    assert max(map(len, draft.text.splitlines())) <= 120
    questions = "\n".join(draft.open_questions)
    for expected in (
        "constant is left out: every cell is 'EU'",
        "homeOwner is blank in 1 rows, which reach the model as missing (NaN)",
        "rooms holds 'NA': write a blank cell instead",
        "1st_loan holds 0 and 1 only",
        "the probability is that of Status = 'bad', the rarer of the two",
        "ranges are the table's, widened",
    ):
        assert expected in questions
        assert expected.split(":")[0] in " ".join(draft.text.split())


def test_classes_and_values_are_told_apart(tmp_path: Path) -> None:
    _, species = drafted(tmp_path, "id,kind,x\n1,b,1.5\n2,a,2.5\n3,c,0.5\n4,a,0.1\n", key="id", label="kind")
    assert (species.task.kind, species.task.classes) == ("multiclass", ("a", "b", "c"))
    assert species.key_field is not None
    assert not species.key_field.is_text
    draft, grade = drafted(tmp_path, "id,grade,x\n1,10,1.5\n2,9,2.5\n3,8,0.5\n", key="id", label="grade")
    assert grade.task.classes == ("8", "9", "10")
    assert any("is it an amount?" in question for question in draft.open_questions)
    _, price = drafted(tmp_path, "id,price,x\n1,1.5,1.5\n2,2.25,2.5\n3,3.0,0.5\n", key=None, label="price")
    assert (price.task.kind, price.key) == ("regression", None)
    assert [feature.name for feature in price.features] == ["x"]
    assert price.score_edges[-1] >= 3


def test_a_word_for_yes_is_the_positive_class_without_a_question(tmp_path: Path) -> None:
    text = "id,left,x\n1,Yes,1.5\n2,Yes,2.5\n3,No,0.5\n"
    draft, contract = drafted(tmp_path, text, key="id", label="left")
    assert contract.task.classes == ("No", "Yes")
    assert not any("probability" in question for question in draft.open_questions)


def test_quotes_and_backslashes_of_values_survive(tmp_path: Path) -> None:
    text = 'id,y,kind\n1,Yes,"5"" pipe"\n2,No,C:\\new\n3,No,"""""""x"\n'
    _, contract = drafted(tmp_path, text, key="id", label="y")
    assert contract.features[0].categories == ('"""x', '5" pipe', "C:\\new")


def test_blank_and_repeated_keys_are_said(tmp_path: Path) -> None:
    draft, _ = drafted(tmp_path, "id,y,x\na,0,1.5\n,1,2.5\na,1,0.5\n", key="id", label="y")
    assert "id is blank in 1 rows, which cannot be loaded" in draft.open_questions
    assert any(question.startswith("1 rows repeat a id") for question in draft.open_questions)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (LOANS, {"key": "nothing"}, "has no column 'nothing' .--key"),
        (LOANS, {"label": "nothing"}, "has no column 'nothing' .--label"),
        ("account_id,Status,x\n", {}, "no rows"),
        ("account_id,Status,x\n1,a,2.5\n2,a,3.5\n", {}, "the label Status has 1 different values"),
        ("account_id,Status,x\n1,a,5\n2,b,5\n", {}, "no column can be a feature: .*every cell is '5'"),
    ],
)
def test_a_table_that_is_no_training_table_is_refused(
    tmp_path: Path, text: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        drafted(tmp_path, text, **options)


def test_the_command_writes_the_file_once_and_lists_the_questions(tmp_path: Path) -> None:
    table, made = tmp_path / "loans.csv", tmp_path / "made.py"
    table.write_text(LOANS)
    call = ["contract", "init", "--data", str(table), "--key", "account_id", "--label", "Status", "--output", str(made)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"wrote {made}: loans, binary, 8 features. To decide:\n- ")
    assert load_contract(str(made)).name == "loans"
    again = CliRunner().invoke(app, call)
    assert (again.exit_code, "exists; replace it with --force" in again.stderr) == (1, True)
    shown = CliRunner().invoke(app, [*call, "--name", "other", "--dry-run", "-o", "json"])
    assert json.loads(shown.stdout)["name"] == "other"
    assert load_contract(str(made)).name == "loans"
