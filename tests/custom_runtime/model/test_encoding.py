import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput
from custom_runtime.model.encoding import WIDTH, decode_row, encode_column, encode_table
from custom_runtime.schema import Feature, Key, fingerprint_of

BY_NAME = {feature.name: feature for feature in CONTRACT.features}


def values_of(feature: Feature) -> st.SearchStrategy[object]:
    if feature.is_category:
        return st.sampled_from(feature.categories)
    return st.floats(feature.minimum, feature.maximum, width=32)


CUSTOMERS = st.fixed_dictionaries({feature.name: values_of(feature) for feature in CONTRACT.features})


@given(st.lists(CUSTOMERS, min_size=1, max_size=5))
def test_what_is_encoded_is_decoded_to_the_same_values(customers: list[dict[str, object]]) -> None:
    rows = encode_table({name: [customer[name] for customer in customers] for name in BY_NAME})
    assert rows.dtype == np.float32
    assert rows.shape == (len(customers), WIDTH)
    assert [decode_row(row) for row in rows] == customers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.001, 600.1, 1e300])
def test_a_number_that_is_not_allowed_is_named_with_its_row(value: float) -> None:
    with pytest.raises(InvalidInput, match=r"tenure_months\[1\] is .*allowed: a finite number from 0 to 600 months"):
        encode_column(BY_NAME["tenure_months"], [1.0, value])


@pytest.mark.parametrize("value", ["weekly", "", None, 3, b"One year", ["One year"]])
def test_a_category_that_does_not_exist_is_named_with_its_row(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"contract\[2\] is .*allowed: one of 'Month-to-month', 'One year'"):
        encode_column(BY_NAME["contract"], ["One year", "Two year", value])


def test_a_missing_column_is_named() -> None:
    columns = {name: [feature.example] for name, feature in BY_NAME.items() if name != "partner"}
    with pytest.raises(InvalidInput, match="columns missing: partner; present: gender"):
        encode_table(columns)


def test_the_fingerprint_follows_what_decides_a_rows_bytes_and_nothing_else() -> None:
    from dataclasses import replace

    key = Key("customer_id", is_text=False, example=42)
    base = fingerprint_of(CONTRACT.features, key=key)
    described = (replace(CONTRACT.features[0], description="other", example="Male"), *CONTRACT.features[1:])
    assert fingerprint_of(described, key=key) == base
    for changed in (
        CONTRACT.features[::-1],
        CONTRACT.features[:-1],
        (replace(CONTRACT.features[0], categories=CONTRACT.features[0].categories[::-1]), *CONTRACT.features[1:]),
        (*CONTRACT.features[:-1], replace(CONTRACT.features[-1], unit="EUR")),
    ):
        assert fingerprint_of(changed, key=key) != base
    assert fingerprint_of(CONTRACT.features, key=replace(key, name="account_id")) != base
