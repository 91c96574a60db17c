import pytest

from custom_runtime.active import CONTRACT
from handoff.columns import match_columns, snake_case
from handoff.errors import DataError


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("StreamingTV", "streaming_tv"),
        ("customerID", "customer_id"),
        ("SeniorCitizen", "senior_citizen"),
        ("tenure", "tenure"),
        ("HTTPPort", "http_port"),
        (" Monthly Charges ", "monthly_charges"),
        ("streaming_tv", "streaming_tv"),
    ],
)
def test_names_are_compared_in_snake_case(written: str, name: str) -> None:
    assert snake_case(written) == name


def test_every_feature_is_found_under_its_own_name_before_another() -> None:
    names = [feature.name for feature in CONTRACT.features]
    others = [origin.column for feature in CONTRACT.features for origin in feature.origins if origin.column]
    assert others
    columns = match_columns(others + names, source="t")
    assert [column.name for column in columns.features] == names


def test_a_missing_column_is_named_with_its_other_name() -> None:
    feature = next(feature for feature in CONTRACT.features if any(origin.column for origin in feature.origins))
    other = next(origin.column for origin in feature.origins if origin.column)
    names = [known.name for known in CONTRACT.features if known is not feature]
    with pytest.raises(DataError, match=rf"t: columns missing: {feature.name} or {other}; present: "):
        match_columns(names, source="t")


def test_two_columns_of_the_same_name_are_refused() -> None:
    names = [feature.name for feature in CONTRACT.features]
    with pytest.raises(DataError, match="'paperless_billing' and 'PaperlessBilling' have the same name"):
        match_columns([*names, "PaperlessBilling"], source="t")
