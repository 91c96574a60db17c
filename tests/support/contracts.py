"""Contracts that differ from the churn contract in every way: text keys, no key, null, classes, a value."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from custom_runtime.schema import (
    Contract,
    FeatureSource,
    Origin,
    boolean,
    category,
    integer,
    multiclass,
    numeric,
    regression,
    remove_null_defaults,
)

Kind = Literal["oak", "pine", "birch"]
_STRICT = ConfigDict(extra="forbid", strict=True, json_schema_extra=remove_null_defaults)


class TreeInput(BaseModel):
    """One tree, found by its tag."""

    model_config = _STRICT

    tag: str = Field(max_length=20, description="The tag on the trunk.", examples=["plot-1/7"])
    height: float | None = numeric("The height.", unit="m", minimum=0, maximum=120, example=12.5)
    rings: Annotated[int, Origin("n_rings")] = integer("The rings.", minimum=0, maximum=5_000, example=40)
    planted: bool = boolean("Whether a person planted it.", example=True)
    soil: Literal["clay", "sand"] = category("The soil.", example="clay")


class TreePrediction(BaseModel):
    """The kind of one tree."""

    model_config = ConfigDict(protected_namespaces=())

    tag: str = Field(description="The tag on the trunk.", examples=["plot-1/7"])
    kind: Kind = Field(description="The most probable kind.", examples=["oak"])
    probabilities: dict[Kind, float] = Field(
        description="The probability of each kind.", examples=[{"oak": 0.7, "pine": 0.2, "birch": 0.1}]
    )
    model_version: str = Field(description="The version that gave the answer.", examples=["7"])
    features: FeatureSource = Field(description="Where the features came from.", examples=["store"])


TREES = Contract(
    name="trees",
    key="tag",
    input=TreeInput,
    prediction=TreePrediction,
    label="kind",
    task=multiclass("oak", "pine", "birch"),
)


class PriceInput(BaseModel):
    """One offer. There is no key: every feature is given."""

    model_config = _STRICT

    area: float = numeric("The area.", unit="m2", minimum=1, maximum=1_000, example=80.0)
    rooms: int = integer("The rooms.", minimum=1, maximum=50, example=3)
    balcony: bool | None = boolean("Whether there is a balcony.", example=True)


class PricePrediction(BaseModel):
    """The price of one offer."""

    model_config = ConfigDict(protected_namespaces=())

    price: float = Field(ge=0, le=2_000, description="The price, thousands.", examples=[310.5])
    interval: tuple[float, float] = Field(description="Its 90 % interval.", examples=[[280.0, 350.0]])
    model_version: str = Field(description="The version that gave the answer.", examples=["7"])


PRICES = Contract(
    name="prices", key=None, input=PriceInput, prediction=PricePrediction, label="price", task=regression()
)


def model_of(**fields: Any) -> type[BaseModel]:
    """Return a Pydantic model with these fields: name -> (type, Field)."""
    model: type[BaseModel] = create_model("Made", **fields)
    return model
