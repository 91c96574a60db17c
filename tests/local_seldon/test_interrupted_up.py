"""`local up` as a real process that a signal ends: nothing of what it started is left, whenever the signal comes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import yaml

from local_seldon import running
from local_seldon.deployment import read_manifest
from rollout.process import EndedBySignal
from rollout.targets.local_store import LocalStore
from tests.support.leftovers import begun, processes_of
from tests.support.local_seldon_world import STUB, manifest, predictor
from tests.support.programs import GUARD_S, eventually

PROGRAM = str(Path(sys.executable).parent / "churn-serving")
pytestmark = pytest.mark.integration
STUB_RUNS, ENVOY_RUNS, CONTROLLER_RUNS = "stub_server.py", "envoy", "controller"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command, of a deployment that does not become Available."""
    file, switches = tmp_path / "churn.yaml", tmp_path / "switches"
    file.write_text(yaml.safe_dump(manifest(predictor("v1", 100))))
    switches.mkdir()
    (switches / "unready").touch()
    place = ["--state", str(tmp_path / "state"), "--port", "0", "--command", f"{sys.executable} {STUB}"]
    artifact = ["--artifact", "churn-serving:1=/bundles/1", "--env", f"STUB_SWITCHES={switches}"]
    return [PROGRAM, "local", "up", str(file), *place, *artifact]


def runs(directory: Path, what: str) -> bool:
    """Whether a process is there that the command has started."""
    if what == CONTROLLER_RUNS:
        return (directory / "state" / "models" / "churn" / "controller.log").exists()
    return any(what in command.partition("--")[0] for command in processes_of(directory).values())


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, STUB_RUNS),
        *(
            pytest.param(number, moment, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGTERM)
            for moment in (CONTROLLER_RUNS, ENVOY_RUNS)
        ),
        pytest.param(signal.SIGTERM, STUB_RUNS, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_what_a_detached_start_has_begun(
    words: list[str], tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    with begun([*words, "--detach"], tmp_path) as process:
        eventually(lambda: runs(tmp_path, moment), bool, every_s=0.005)
        process.send_signal(number)
        code = process.wait(GUARD_S)
        said = (tmp_path / "output").read_text()
        assert processes_of(tmp_path) == {}, said
        assert (code, "Traceback" in said) == (128 + number, False), said
        assert "nothing of it runs any more" in said
        assert not (tmp_path / "state" / "models" / "churn" / "deployment.json").exists()


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGTERM))],
)
def test_a_signal_or_a_closed_terminal_ends_a_start_in_the_foreground(
    words: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    with begun(words, tmp_path) as process:
        eventually(lambda: runs(tmp_path, STUB_RUNS), bool, every_s=0.005)
        process.send_signal(number)
        process.send_signal(number)  # somebody who is impatient
        code = process.wait(GUARD_S)
        said = (tmp_path / "output").read_text()
        assert (code, "Traceback" in said) == (0, False), said
        assert processes_of(tmp_path) == {}, said


def test_a_signal_at_the_moment_of_availability_still_ends_the_deployment(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "switches" / "unready").unlink()
    deployment = read_manifest((tmp_path / "churn.yaml").read_bytes())
    store = LocalStore.of(tmp_path / "state", deployment.namespace, deployment.name)

    def came() -> int:
        state = store.read().get("status", {}).get("state") if store.object_file.exists() else ""
        return signal.SIGINT if state == "Available" else 0

    said: list[str] = []
    with pytest.raises(EndedBySignal):
        running.detach(words, store, GUARD_S, came=came, say=said.append)
    assert said == ["ending what was started"]
    assert processes_of(tmp_path) == {}
