"""What a Contract derives from its two models, and what it refuses."""

from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from custom_runtime.contract import CONTRACT as CHURN
from custom_runtime.schema import (
    KEY_MAXIMUM,
    Contract,
    FeatureSource,
    binary,
    boolean,
    category,
    integer,
    multiclass,
    numeric,
    regression,
)
from tests.support.contract_of_prices import CONTRACT as PRICES
from tests.support.contract_of_trees import CONTRACT as TREES

KEY = (int, Field(ge=0, le=KEY_MAXIMUM, description="The row.", examples=[1]))
NUMBER = (float, numeric("A number.", minimum=0, maximum=1, example=0.5))
CHANCE = (float, Field(ge=0, le=1, description="The chance.", examples=[0.5]))
BINARY = binary(negative="No", positive="Yes")


def model_of(**fields: Any) -> type[BaseModel]:
    """Return a Pydantic model with these fields: name -> (type, Field)."""
    model: type[BaseModel] = create_model("Made", **fields)
    return model


def contract(**changed: Any) -> Contract:
    given: dict[str, Any] = {
        "name": "made",
        "key": "id",
        "input": model_of(id=KEY, number=NUMBER),
        "prediction": model_of(id=KEY, chance=CHANCE),
        "label": "truth",
        "task": BINARY,
    }
    return Contract(**(given | changed))


def test_the_outputs_of_a_binary_task_follow_the_prediction() -> None:
    found = [(output.name, output.role, output.datatype, output.columns) for output in CHURN.outputs]
    assert found == [("churn_probability", "probability", "FP64", 1), ("features", "source", "BYTES", 1)]
    assert (CHURN.columns, CHURN.score_edges) == (1, tuple(edge / 20 for edge in range(1, 21)))


def test_the_outputs_of_a_multiclass_task_follow_the_prediction() -> None:
    found = [(output.name, output.role, output.datatype, output.columns) for output in TREES.outputs]
    assert found == [
        ("kind", "label", "BYTES", 1),
        ("probabilities", "probabilities", "FP64", 3),
        ("features", "source", "BYTES", 1),
    ]
    assert (TREES.columns, TREES.score_edges) == (3, (0.0, 1.0, 2.0))


def test_the_outputs_of_a_regression_follow_the_prediction() -> None:
    found = [(output.name, output.role, output.columns) for output in PRICES.outputs]
    assert found == [("price", "value", 1), ("interval", "interval", 2)]
    assert PRICES.columns == 3
    assert (len(PRICES.score_edges), PRICES.score_edges[0], PRICES.score_edges[-1]) == (20, 100.0, 2_000.0)


def test_features_carry_their_kind_and_whether_they_may_be_missing() -> None:
    assert [(f.name, f.kind, f.nullable, f.datatype) for f in TREES.features] == [
        ("height", "number", True, "FP32"),
        ("rings", "integer", False, "INT64"),
        ("planted", "boolean", False, "BOOL"),
        ("soil", "category", True, "BYTES"),
    ]
    assert [feature.allowed for feature in TREES.features] == [
        "a finite number from 0 to 120 m, or null",
        "an integer from 0 to 5000",
        "true or false",
        "one of 'clay', 'sand', or null",
    ]


def test_keys_are_integers_text_or_absent() -> None:
    assert CHURN.key_field is not None
    assert TREES.key_field is not None
    assert (CHURN.key_field.datatype, TREES.key_field.datatype, PRICES.key_field) == ("INT64", "BYTES", None)
    assert [CHURN.key_field.accepts(value) for value in (0, KEY_MAXIMUM, -1, KEY_MAXIMUM + 1, True, "1")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    assert [TREES.key_field.accepts(value) for value in ("a", "x" * 20, "", "x" * 21, "a\x00", 1)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    assert (TREES.row_field, PRICES.row_field) == ("tag", "area")


def test_the_fingerprint_changes_with_what_a_stored_row_means() -> None:
    base = contract().fingerprint
    nullable = (float | None, numeric("A number.", minimum=0, maximum=1, example=0.5))
    wider = (float, numeric("A number.", minimum=0, maximum=2, example=0.5))
    text = (str, Field(description="The row.", examples=["a"]))
    assert contract(input=model_of(id=KEY, number=nullable)).fingerprint != base
    assert contract(input=model_of(id=text, number=NUMBER), prediction=model_of(chance=CHANCE)).fingerprint != base
    assert contract(input=model_of(id=KEY, number=wider)).fingerprint == base
    assert replace(contract(), name="other", label="other").fingerprint == base


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "a:b"}, "the contract's name is 'a:b'"),
        ({"key": "other"}, "the key 'other' is no field of Made"),
        ({"input": model_of(id=(float, Field(examples=[1.0])), number=NUMBER)}, "allowed: int with Field(ge"),
        ({"input": model_of(id=(int, Field(ge=0, examples=[1])), number=NUMBER)}, "allowed: int with Field(ge"),
        ({"input": model_of(id=KEY)}, "has no features"),
        ({"input": model_of(id=KEY, number=(float, Field(description="x", examples=[1.0])))}, "allowed: float with"),
        ({"input": model_of(id=KEY, number=(float, Field(ge=0, le=1)))}, "needs a description and an example"),
        (
            {"input": model_of(id=KEY, n=(int, integer("n", minimum=0, maximum=2**25, example=1)))},
            "declare it as float",
        ),
        ({"input": model_of(id=KEY, c=(Literal["a", None], category("c", example="a")))}, "of text and | None"),
        ({"prediction": model_of(id=KEY)}, "wanted for binary: one probability"),
        ({"prediction": model_of(a=CHANCE, b=CHANCE)}, "wanted for binary: one probability"),
        ({"prediction": model_of(chance=(float, Field(examples=[0.5])))}, "needs its range"),
        ({"prediction": model_of(chance=(float, Field(ge=0, le=2, examples=[0.5])))}, "a probability is from 0 to 1"),
        ({"prediction": model_of(chance=(float, Field(ge=0, le=1)))}, "needs an example"),
        ({"prediction": model_of(chance=(list[float], Field(examples=[[0.5]])))}, "allowed: float (the probability)"),
        ({"task": multiclass("a", "b", "c")}, "wanted for multiclass: one probabilities"),
        ({"task": regression(), "prediction": model_of(v=(float, Field(ge=1, le=1, examples=[1.0])))}, "a width"),
    ],
)
def test_a_declaration_that_cannot_be_served_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError) as refused:
        contract(**changed)
    assert message in str(refused.value)


def test_a_label_is_found_by_its_text_or_another_spelling() -> None:
    assert [BINARY.place_of(label) for label in ("No", "Yes", 0, 1.0, True, "maybe")] == [0, 1, 0, 1, 1, None]
    task = multiclass("a", "b", "c", spellings={"Third": "c"})
    assert [task.place_of(label) for label in ("a", "third", "d")] == [0, 2, None]


def test_a_prediction_may_have_the_label_and_the_source_beside_the_probability() -> None:
    made = model_of(
        chance=CHANCE,
        answer=(Literal["No", "Yes"], Field(examples=["No"])),
        origin=(FeatureSource, Field(examples=["store"])),
    )
    assert [output.role for output in contract(prediction=made).outputs] == ["probability", "label", "source"]


def test_a_boolean_needs_no_range() -> None:
    made = contract(input=model_of(id=KEY, flag=(bool, boolean("A flag.", example=True))))
    assert (made.features[0].minimum, made.features[0].maximum) == (0.0, 1.0)
