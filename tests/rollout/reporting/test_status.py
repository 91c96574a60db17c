"""The live view: everything a person asks of a rollout is on the screen and in the JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rollout.analysis.counts import Arm, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GATES_JSON, GateState, update
from rollout.engine.state import Phase, RolloutState, Timers
from rollout.errors import Denied
from rollout.plan.plan import Plan, Step
from rollout.reporting.advice import commands, next_step, who_acts
from rollout.reporting.status import Status, look, screen
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore
from rollout.targets.place import Place, place_of
from rollout.targets.target import LeaseRecord, Pod, Readiness, Snapshot
from tests.support.rollout_world import manifest

NOW_S = 1_760_000_000.0
LEASE = LeaseRecord(holder="runner-7-ab", duration_s=15, renewed_at_s=NOW_S - 3, transitions=1, version="1")
PLAN = Plan((Step(10), Step(30, manual=True), Step(100)))


def counts(requests: int, errors: int) -> Arm:
    empty = Counts()
    latency = [0] * len(empty.latency)
    latency[0] = requests
    return Arm.of(Counts(requests=requests, errors=errors, latency=tuple(latency)))


def state(phase: Phase = Phase.PROGRESSING, step: int = 0, **changes: Any) -> RolloutState:
    _, results = update(GateConfig(), GateState(), counts(9000, 9), counts(1000, 2))
    assert results
    gates, _ = update(GateConfig(), GateState(), counts(9000, 9), counts(1000, 2))
    evidence = GATES_JSON.dump_python(gates, mode="json") if step >= 0 else {}
    return RolloutState(
        id="1f2e", plan=PLAN, stable="v7", canary="v8", phase=phase, step=step, timers=Timers(step_s=20.0),
        canary_requests=120, evidence=evidence, message="10 % to v8",
        started_at_s=NOW_S - 90, **changes,
    )  # fmt: skip


class Pods:
    """A target that lists pods, or may not."""

    def __init__(self, *, denied: bool = False) -> None:
        self.denied = denied

    def pods(self) -> list[Pod]:
        if self.denied:
            raise Denied("cannot list pods: 403")
        return [
            Pod("v7", "churn-v7-0-churn-aa", "churn:7", ready=True, created_at_s=NOW_S - 7200),
            Pod("v8", "churn-v8-0-churn-bb", "churn:8", ready=False, restarts=4, created_at_s=NOW_S - 80),
        ]


def status(
    rollout: RolloutState,
    *,
    mesh: dict[str, int] | None = None,
    operator: dict[str, Any] | None = None,
    lease: LeaseRecord = LEASE,
    target: object = None,
    ready: int = 1,
) -> Status:
    document = manifest()
    v8 = {**document["spec"]["predictors"][0], "name": "v8", "traffic": 0}
    document["spec"]["predictors"].append(v8)
    document["status"] = operator or {"state": "Available"}
    readiness = {"v7": Readiness(1, 1), "v8": Readiness(1, ready)}
    snapshot = Snapshot(document, readiness, {"v7": 90, "v8": 10} if mesh is None else mesh)
    return look(snapshot, rollout, lease, target or Pods(), now_s=NOW_S)


def shown(seen: Status) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - rich writes into it
    console.print(screen(seen))
    console.file.close()
    return console.export_text()


def test_everything_a_person_asks_is_on_the_screen() -> None:
    text = shown(status(state()))
    for words in (
        "v7 to v8", "Progressing", "20s of 1m", "120 of 300", "runner-7-ab, last seen 3s ago", "1m 30s ago",
        "churn-v7-0-churn-aa", "2h", "churn-v8-0-churn-bb", "not ready", "churn:8", "slo_errors", "inconclusive",
        "v8 gets 30 %; still needed: 40 s, 180 canary requests, a pass of every gate",
        "churn-serving rollout pause churn",
    ):  # fmt: skip
        assert words in text, f"{words!r} is not in\n{text}"


def test_asked_and_real_weights_are_told_apart() -> None:
    seen = status(state(Phase.ROLLING_BACK), mesh={"v7": 90, "v8": 10})
    lines = shown(seen).splitlines()
    asked, mesh = (next(line for line in lines if f" {word} " in line) for word in ("asked", "mesh"))
    assert "v7 100 %" in asked
    assert "v7 90 %" in mesh
    assert any("does not route by the weights" in note for note in seen.notes)


def test_a_stale_word_of_the_operator_is_explained_only_when_all_is_ready() -> None:
    failed = {"state": "Failed", "description": 'Service "churn-v9" not found'}
    explained = status(state(), operator=failed)
    assert 'Service "churn-v9" not found' in explained.operator
    assert any("still says Failed" in note for note in explained.notes)
    assert not any("still says Failed" in note for note in status(state(), operator=failed, ready=0).notes)
    assert not any("still says Failed" in note for note in status(state()).notes)


@pytest.mark.parametrize(
    ("lease", "driven", "words"),
    [
        (LEASE, True, "last seen 3s ago"),
        (LeaseRecord("runner-7-ab", 15, NOW_S - 600, 1, "1"), False, "last seen 10m ago; it is probably dead"),
        (LeaseRecord(), False, "nobody"),
        (LeaseRecord("runner-8", 15, NOW_S - 3, 2, "2", NOW_S - 300), True, "runner-8 since 5m, last seen 3s ago"),
    ],
    ids=["at work", "dead", "none", "since when"],
)
def test_who_drives_is_said(lease: LeaseRecord, driven: bool, words: str) -> None:
    seen = status(state(), lease=lease)
    assert (seen.driven, words in seen.driver) == (driven, True)
    assert ("churn-serving rollout resume churn" in shown(seen)) is not driven


def test_a_missing_right_to_list_pods_is_shown_and_nothing_else_is_lost() -> None:
    text = shown(status(state(), target=Pods(denied=True)))
    assert "pods: cannot list pods: 403" in text
    assert "slo_errors" in text


def test_the_json_has_the_gates_and_the_pods() -> None:
    found = status(state()).to_dict()
    assert {gate["name"] for gate in found["gates"]} == set(GateConfig().gates) - {"caller_errors", "caller_latency"}
    errors = next(gate for gate in found["gates"] if gate["name"] == "errors")
    assert "0.2 % of 1,000" in errors["reason"]
    assert found["mesh"] == {"v7": 90, "v8": 10}
    assert [(pod["predictor"], pod["age_s"]) for pod in found["pods"]] == [("v7", 7200), ("v8", 80)]


def test_the_gates_present_evidence_is_what_the_record_holds_and_is_not_counted_twice() -> None:
    _, results = update(GateConfig(), GateState(), counts(9000, 9), counts(1000, 2))
    assert [gate.reason for gate in status(state()).gates] == [result.reason for result in results]


def test_a_finished_rollout_has_no_gates_to_wait_for() -> None:
    assert status(state(Phase.PENDING, -1), mesh={"v7": 100}).gates == ()


@pytest.mark.parametrize(
    ("rollout", "words"),
    [
        (lambda: state(Phase.PENDING, -1), "v8 gets 10 % when its pods are ready; after 600 s more it is removed"),
        (lambda: state(step=1), "a person's `promote`"),
        (lambda: state(Phase.PAUSED), "a person decides"),
        (lambda: state(Phase.BAKING, 2), "v7 is deleted; still needed"),
        (lambda: state(Phase.ROLLED_BACK), "the rollout is over"),
        (lambda: state(Phase.FAILED), "by hand"),
    ],
)
def test_what_happens_next(rollout: Callable[[], RolloutState], words: str) -> None:
    assert words in next_step(rollout())


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("driven", [True, False])
def test_every_phase_has_a_next_command_that_exists(phase: Phase, driven: bool) -> None:
    found = commands(phase, "churn", stable="v7", canary="v8", driven=driven)
    verbs = {"run", "resume", "status", "pause", "promote", "abort", "undo"}
    assert found
    for one in found:
        words = one.command.split()
        assert words[:2] == ["churn-serving", "rollout"]
        assert words[2] in verbs


IN_CLUSTER = Place.in_cluster("churn", "models")
HERE = Place.on_this_machine(Path("var/demo/seldon/default/churn"))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("place", [IN_CLUSTER, HERE])
def test_a_proposed_command_can_be_pasted_as_it_is(phase: Phase, place: Place) -> None:
    """Without the namespace, or the target, it would reach another deployment or none."""
    for one in commands(phase, "churn", stable="v7", canary="v8", driven=False, place=place):
        assert one.command == place.trail or f" churn{place.options}" in one.command
        assert place is IN_CLUSTER or "kubectl" not in one.command


@pytest.mark.parametrize(
    ("place", "options", "trail"),
    [
        (IN_CLUSTER, " -n models", "kubectl events -n models --for seldondeployment/churn"),
        (
            Place.in_cluster("churn", "models", "west"),
            " -n models --context west",
            "kubectl events -n models --context west --for seldondeployment/churn",
        ),
        (HERE, " --target local --state var/demo/seldon", "cat var/demo/seldon/default/churn/events.jsonl"),
        (
            Place.on_this_machine(Path("var/seldon/models/churn")),
            " --target local -n models",
            "cat var/seldon/models/churn/events.jsonl",
        ),
    ],
)
def test_a_place_is_what_a_person_types(place: Place, options: str, trail: str) -> None:
    assert (place.options, place.trail) == (options, trail)


def test_the_screen_of_a_deployment_on_this_machine_proposes_nothing_of_a_cluster(tmp_path: Path) -> None:
    target = LocalTarget(LocalStore.of(tmp_path, "default", "churn"))
    found = replace(status(state(Phase.ROLLED_BACK)), place=place_of(target))
    text = " ".join(shown(found).replace("│", "").split())
    assert "kubectl" not in text
    assert f"--target local --state {tmp_path}" in text
    assert f"cat {tmp_path}/default/churn/events.jsonl" in text


def test_who_acts_on_a_command_is_said() -> None:
    assert who_acts("promote", "runner-7") == "runner-7 drives this rollout and acts on `promote` at its next look"
    assert "`churn-serving rollout resume churn -n models` will" in who_acts(
        "pause", "", deployment="churn", place=IN_CLUSTER
    )
