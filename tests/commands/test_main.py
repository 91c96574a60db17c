"""`churn-serving`: one look of help, commands that are imported when called, scripts that stand for commands."""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.main import app
from tests.support.commands import find, leaves, unknown_options
from tests.support.programs import ROOT

PROGRAM = Path(sys.executable).parent / "churn-serving"
PACKAGES = {"custom_runtime", "handoff", "rollout", "local_seldon", "benchmarks", "image"}
SLOW_TO_IMPORT = {
    "kubernetes", "matplotlib", "mlflow", "mlserver", "onnx", "onnxruntime", "pandas", "scipy", "sklearn", "xgboost",
}  # fmt: skip
SCRIPTS = {
    "canary_demo": ("demo",),
    "canary_promote": ("rollout",),
    "image_test": ("image-test",),
    "import_model": ("import",),
    "load_features": ("features", "load"),
    "load_test": ("load-test",),
    "manifest": ("manifest",),
    "quality": ("quality",),
    "seldon_local": ("local",),
    "soak": ("soak",),
    "train": ("train",),
}


def shown(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, words, prog_name="churn-serving")
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("leaf", leaves(), ids=" ".join)
def test_help_ends_in_an_example_that_the_command_understands(leaf: tuple[str, ...]) -> None:
    text = shown(*leaf, "--help")
    assert text.startswith(f"Usage: churn-serving {' '.join(leaf)} ")
    _, _, example = text.partition("\n  Example:\n")
    _, called, words = example.replace("\\\n", "").splitlines()[0].partition(f"churn-serving {' '.join(leaf)}")
    assert called, text
    assert unknown_options(*leaf, *shlex.split(words)) == []


@pytest.mark.parametrize("leaf", leaves(), ids=" ".join)
def test_values_have_plain_names_and_a_repeatable_option_says_so(leaf: tuple[str, ...]) -> None:
    _, command = find(*leaf)
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag:
            assert re.fullmatch(r"<[a-z0-9|-]+>", option.metavar), f"{option.opts}: {option.metavar}"
            assert option.multiple is (re.search("[Rr]epeat", option.help) is not None), option.opts


@pytest.mark.parametrize("group", [(), ("features",), ("manifest",), ("rollout",), ("local",)], ids=" ".join)
def test_a_group_lists_its_commands_each_in_one_line(group: tuple[str, ...]) -> None:
    text = shown(*group, "--help")
    _, _, listed = text.partition("\nCommands:\n")
    _, command = find(*group)
    assert [line.split()[0] for line in listed.splitlines()] == list(command.commands)
    assert "..." not in listed


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from commands.main import app\ntry: app(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert imported.isdisjoint(PACKAGES | SLOW_TO_IMPORT | {"rich", "pydantic", "numpy"})


def test_the_help_of_a_command_imports_nothing_that_takes_long() -> None:
    lines = [[*leaf, "--help"] for leaf in leaves()]
    code = (
        "import sys; from typer.testing import CliRunner; from commands.main import app\n"
        f"for line in {lines!r}: assert CliRunner().invoke(app, line).exit_code == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()}.isdisjoint(SLOW_TO_IMPORT)


def test_the_version_is_that_of_pyproject() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert shown("--version") == f"churn-serving {wanted}\n"


@pytest.mark.parametrize(("typed", "offered"), [("ro", ["rollout"]), ("rollout pro", ["promote"])])
def test_bash_completes_commands(typed: str, offered: list[str]) -> None:
    line = f"churn-serving {typed}"
    asked = {"_CHURN_SERVING_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = subprocess.run([PROGRAM], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered, done.stderr


def test_every_script_stands_for_a_command() -> None:
    assert {file.stem for file in (ROOT / "scripts").glob("*.py")} == {*SCRIPTS, "serve"}


@pytest.mark.parametrize(("script", "command"), SCRIPTS.items())
def test_a_script_is_its_command(
    script: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"Usage: churn-serving {' '.join(command)} ")


def test_serving_needs_the_package_of_the_pod_alone() -> None:
    code = (
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('commands', 'handoff', 'typer', 'rich'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.argv = ['scripts/serve.py', '--workers', '0']\n"
        "runpy.run_path('scripts/serve.py', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "--workers is 0; allowed: 1 or more" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("words", [("train", "--nothing"), ("rollout", "nothing"), ("nothing",)])
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "nothing" in done.stderr


def test_a_command_whose_packages_are_not_installed_says_what_to_run() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mlperf_loadgen':\n"
        "            raise ModuleNotFoundError('absent', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from commands.main import main\n"
        "sys.argv = ['churn-serving', 'load-test', '--qps', '10']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: load-test needs mlperf_loadgen, which is not installed; run: make setup\n"


@pytest.mark.parametrize(
    "words", ["rollout plan", "manifest capacity", "--help", "rollout --help", "rollout run --help", "--version"]
)
def test_a_command_whose_output_nobody_reads_ends_quietly_and_not_as_a_rollback(words: str) -> None:
    with subprocess.Popen(
        [PROGRAM, *words.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(), said) == (141, b"")
