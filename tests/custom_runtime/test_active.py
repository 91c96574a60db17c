"""Which contract a process takes: a module, a file, or the churn contract."""

from pathlib import Path

import pytest

from custom_runtime.active import DEFAULT, load_contract
from custom_runtime.errors import StartupError
from tests.support import contract_of_trees

FILE = Path(contract_of_trees.__file__).read_text()


def test_the_churn_contract_is_the_default() -> None:
    assert load_contract(DEFAULT).name == "churn"


def test_a_file_is_a_contract(tmp_path: Path) -> None:
    (tmp_path / "trees.py").write_text(FILE)
    assert load_contract(str(tmp_path / "trees.py")).name == "trees"


def test_a_module_is_found_below_the_working_directory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forest").mkdir()
    (tmp_path / "forest" / "trees.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    assert load_contract("forest.trees").name == "trees"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "whose CONTRACT is NoneType"),
        ("CONTRACT = 1\n", "whose CONTRACT is int"),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("def\n", "invalid syntax"),
        ("raise TypeError('the key is a float')\n", "the key is a float"),
    ],
)
def test_what_is_no_contract_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "made.py").write_text(text)
    with pytest.raises(StartupError) as refused:
        load_contract(str(tmp_path / "made.py"))
    assert message in str(refused.value)
    assert "SERVING_CONTRACT" in str(refused.value)


@pytest.mark.parametrize("named", ["nothing_of_this_name", "nothing.of.this", "/nothing/of/this.py", "json"])
def test_a_module_that_does_not_exist_or_has_no_contract_is_refused(named: str) -> None:
    with pytest.raises(StartupError, match="SERVING_CONTRACT"):
        load_contract(named)
