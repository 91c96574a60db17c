from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import Conflict, NotFound, Rejected, Unavailable
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore, write_json
from rollout.targets.target import Event, EventType, LeaseRecord
from tests.support.rollout_world import manifest


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore.of(tmp_path, "models", "churn")
    found.put(manifest())
    return found


def annotate(value: str) -> dict[str, Any]:
    return {"op": "add", "path": "/metadata/annotations", "value": {"note": value}}


def test_versions_grow_with_every_change_and_generations_with_the_spec(store: LocalStore) -> None:
    first = store.read()["metadata"]
    annotated = store.patch([annotate("a")])["metadata"]
    weighed = store.patch([{"op": "add", "path": "/spec/predictors/0/traffic", "value": 100}])["metadata"]
    again = store.patch([{"op": "add", "path": "/spec/predictors/0/traffic", "value": 100}])["metadata"]
    assert [one["resourceVersion"] for one in (first, annotated, weighed, again)] == ["1", "2", "3", "3"]
    assert [one["generation"] for one in (first, annotated, weighed)] == [1, 1, 2]


def test_a_patch_whose_test_does_not_hold_changes_nothing(store: LocalStore) -> None:
    before = store.read()
    with pytest.raises(Conflict):
        store.patch([annotate("a"), {"op": "test", "path": "/metadata/resourceVersion", "value": "77"}])
    assert store.read() == before


def test_what_the_webhook_refuses_is_not_stored(store: LocalStore) -> None:
    before = store.read()
    with pytest.raises(Rejected, match="Traffic must sum be 100 for a single predictor when set"):
        store.patch([{"op": "add", "path": "/spec/predictors/0/traffic", "value": 40}])
    with pytest.raises(Rejected, match="/spec/predictors/0/traffic"):
        store.patch([{"op": "add", "path": "/spec/predictors/0/traffic", "value": "40"}])
    assert store.read() == before


def test_a_dry_run_says_what_would_be_and_stores_nothing(store: LocalStore) -> None:
    before = store.read()
    assert store.patch([annotate("a")], dry_run=True)["metadata"]["annotations"] == {"note": "a"}
    assert store.read() == before


def test_a_patch_never_reaches_the_status(store: LocalStore) -> None:
    write_json(store.status_file, {"state": "Available"})
    store.patch([{"op": "replace", "path": "/status/state", "value": "Failed"}, annotate("a")])
    assert store.read()["status"] == {"state": "Available"}


def test_applying_a_manifest_replaces_the_spec_and_keeps_annotations_of_others(store: LocalStore) -> None:
    store.patch([annotate("of a rollout")])
    applied = manifest()
    applied["metadata"]["annotations"] = {"mine": "1"}
    store.put(applied)
    assert store.read()["metadata"]["annotations"] == {"note": "of a rollout", "mine": "1"}


def test_of_many_writers_with_the_same_version_one_wins(store: LocalStore) -> None:
    version = store.read()["metadata"]["resourceVersion"]
    outcomes: list[str] = []

    def write(number: int) -> None:
        guard = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        try:
            store.patch([guard, annotate(str(number))])
            outcomes.append("stored")
        except Conflict:
            outcomes.append("conflict")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(outcomes) == ["conflict"] * 7 + ["stored"]


def test_the_lease_is_swapped_only_by_who_has_read_it(store: LocalStore) -> None:
    assert store.read_lease() == LeaseRecord()
    mine = store.write_lease(LeaseRecord(holder="a", transitions=1))
    assert store.read_lease() == mine
    with pytest.raises(Conflict, match="written in between by a"):
        store.write_lease(LeaseRecord(holder="b", transitions=1))
    theirs = store.write_lease(LeaseRecord(holder="b", transitions=2, version=mine.version))
    assert theirs.version != mine.version


def test_events_are_kept_in_order_with_their_time(store: LocalStore) -> None:
    target = LocalTarget(store)
    target.publish(Event(EventType.NORMAL, "Started", "v8 at 0 %"))
    target.publish(Event(EventType.WARNING, "GateFailed", "errors"))
    lines = store.events_file.read_text().splitlines()
    assert ['"reason": "Started"' in lines[0], '"reason": "GateFailed"' in lines[1], '"time": "' in lines[1]] == [
        True
    ] * 3


def test_a_deployment_that_does_not_exist_is_not_found_and_one_that_does_not_run_is_unavailable(
    tmp_path: Path, store: LocalStore
) -> None:
    with pytest.raises(NotFound, match=r"churn-serving local up FILE"):
        LocalTarget(LocalStore.of(tmp_path, "models", "other")).read()
    with pytest.raises(Unavailable, match="nothing runs in"):
        LocalTarget(store).read()
