"""A contract with a text key and three classes, from features of every kind, of which two may be missing."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
    Contract,
    FeatureSource,
    Origin,
    boolean,
    category,
    integer,
    multiclass,
    numeric,
    remove_null_defaults,
)

Kind = Literal["oak", "pine", "birch"]


class TreeInput(BaseModel):
    """One tree, found by its tag."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=remove_null_defaults)

    tag: str = Field(max_length=20, description="The tag on the trunk.", examples=["plot-1/7"])
    height: float | None = numeric("The height.", unit="m", minimum=0, maximum=120, example=12.5)
    rings: Annotated[int, Origin("n_rings")] = integer("The rings.", minimum=0, maximum=5_000, example=40)
    planted: bool = boolean("Whether a person planted it.", example=True)
    soil: Literal["clay", "sand"] | None = category("The soil.", example="clay")


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


CONTRACT = Contract(
    name="trees",
    key="tag",
    input=TreeInput,
    prediction=TreePrediction,
    label="kind",
    task=multiclass("oak", "pine", "birch"),
)
