"""Numbers of the pages: short, and never with an exponent where a reader wants an amount."""

import pytest

from handoff.evaluation.report import number, tick


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.12341, "0.1234"),
        (3.0, "3"),
        (1234.4, "1234"),
        (28_320.4, "28,320"),
        (-1.15e5, "-115,000"),
    ],
)
def test_a_number(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0.012, "+0.012"), (-5903.2, "-5903"), (49_092.0, "+49,092")])
def test_a_difference_has_its_sign(value: float, shown: str) -> None:
    assert number(value, signed=True) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0865, "0.0865"), (124.0, "124"), (-2_720.0, "-2.72k"), (1.2e6, "1.2M"), (3e9, "3G")]
)
def test_an_axis_has_room_for_a_few_letters(value: float, shown: str) -> None:
    assert tick(value) == shown
