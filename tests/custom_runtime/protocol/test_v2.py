"""V2 tensors as queries: keys, and which of a request's features the store has."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput
from custom_runtime.protocol import v2
from custom_runtime.schema import KEY_MAXIMUM

KEY = CONTRACT.key_field


def keys_of(values: list[Any]) -> v2.Tensor:
    return v2.Tensor("customer_id", "INT64", [len(values)], values)


@given(
    st.lists(
        st.integers(-2, 3) | st.integers(KEY_MAXIMUM - 1, KEY_MAXIMUM + 2) | st.booleans() | st.floats(), min_size=2
    )
)
def test_keys_are_accepted_together_where_each_is_and_otherwise_the_first_that_is_not_is_named(
    values: list[Any],
) -> None:
    assert KEY is not None
    wrong = [row for row, value in enumerate(values) if not KEY.accepts(value)]
    if not wrong:
        assert v2.decode([keys_of(values)]).keys == values
        return
    with pytest.raises(InvalidInput, match=rf"^customer_id\[{wrong[0]}\] is .*; allowed: an integer from"):
        v2.decode([keys_of(values)])


@pytest.mark.parametrize("given_features", [0, 1, len(CONTRACT.features) - 1, len(CONTRACT.features)])
def test_a_request_needs_the_store_until_it_gives_every_feature(given_features: int) -> None:
    features = [
        v2.Tensor(feature.name, feature.datatype, [1], [feature.example])
        for feature in CONTRACT.features[:given_features]
    ]
    tensors = [keys_of([42]), *features]
    assert v2.needs_store(tensors) == v2.decode(tensors).needs_store == (given_features < len(CONTRACT.features))
