"""A failure that repeats is logged the first time, and then once a minute with how many there were."""

from custom_runtime.repeated_failure import LOG_AGAIN_S, RepeatedFailure


def test_the_first_is_due_at_once_and_the_others_together_a_minute_later() -> None:
    now_s = [0.0]
    failure = RepeatedFailure(lambda: now_s[0])
    assert [failure.count() for _ in range(3)] == [1, 0, 0]
    now_s[0] = LOG_AGAIN_S - 1
    assert failure.count() == 0
    now_s[0] = LOG_AGAIN_S
    assert [failure.count(), failure.count()] == [4, 0]
