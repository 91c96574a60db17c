"""How tests of time limits are judged (tests/support/attempts.py)."""

import pytest

from tests.support import attempts as module
from tests.support.attempts import ATTEMPTS, attempts


def run(monkeypatch: pytest.MonkeyPatch, outcomes: list[bool], stolen: list[float]) -> int:
    """Make attempts with these outcomes; return how many were made."""
    shares = iter(stolen)

    class Steal:
        def share(self) -> float:
            return next(shares)

    monkeypatch.setattr(module, "StealTime", Steal)
    made = 0
    for made, attempt in enumerate(attempts(pause_s=0), 1):
        attempt.end(is_met=outcomes[made - 1], figures={"P99": made})
    return made


def test_the_first_attempt_that_keeps_the_limits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [True], [0.5]) == 1
    assert run(monkeypatch, [False, True], [0.0, 0.0]) == 2


def test_it_fails_when_none_does_though_two_were_undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not kept in 5 attempts.*'P99': 5.*2.0% of the processor"):
        run(monkeypatch, [False] * ATTEMPTS, [0.5, 0.5, 0.0, 0.5, 0.02])


@pytest.mark.parametrize("quietest", [0.0, 0.5])
def test_it_is_skipped_when_all_but_one_were_disturbed(monkeypatch: pytest.MonkeyPatch, quietest: float) -> None:
    with pytest.raises(pytest.skip.Exception, match=r"(?s)had the cores.*'P99': 1.*\(50.0% of the processor"):
        run(monkeypatch, [False] * ATTEMPTS, [*[0.5] * (ATTEMPTS - 1), quietest])


def test_one_that_does_not_say_how_it_ended_was_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception):
        for _ in attempts(pause_s=0):
            pass
