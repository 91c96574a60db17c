"""The contract of the penguins: measures that may be blank, three species and their probabilities."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
    KEY_MAXIMUM,
    Contract,
    FeatureSource,
    category,
    multiclass,
    numeric,
    remove_null_defaults,
)

Species = Literal["Adelie", "Chinstrap", "Gentoo"]


class PenguinInput(BaseModel):
    """One penguin. Only penguin_id is required; a feature given here overrides the stored one."""

    model_config = ConfigDict(extra="forbid", strict=True, title="PenguinInput", json_schema_extra=remove_null_defaults)

    penguin_id: int = Field(ge=0, le=KEY_MAXIMUM, description="The penguin's number.", examples=[42])
    island: Literal["Biscoe", "Dream", "Torgersen"] = category("Where it was found.", example="Dream")
    bill_length_mm: float | None = numeric("Length of its bill.", unit="mm", minimum=10, maximum=100, example=43.9)
    bill_depth_mm: float | None = numeric("Depth of its bill.", unit="mm", minimum=5, maximum=50, example=17.2)
    flipper_length_mm: float | None = numeric("Length of a flipper.", unit="mm", minimum=50, maximum=500, example=200.0)
    body_mass_g: float | None = numeric("Its mass.", unit="g", minimum=500, maximum=50_000, example=4200.0)
    sex: Literal["female", "male", "unknown"] = category("Its sex.", example="female")


class PenguinPrediction(BaseModel):
    """The response for one penguin."""

    model_config = ConfigDict(title="PenguinPrediction", protected_namespaces=())

    penguin_id: int = Field(description="The penguin's number.", examples=[42])
    species: Species = Field(description="The most probable species.", examples=["Adelie"])
    probabilities: dict[Species, float] = Field(
        description="The probability of each species.", examples=[{"Adelie": 0.97, "Chinstrap": 0.02, "Gentoo": 0.01}]
    )
    model_version: str = Field(description="The registered model version that gave the answer.", examples=["1"])
    features: FeatureSource = Field(
        description="Where the features came from: store, request or default.", examples=["store"]
    )


CONTRACT = Contract(
    name="penguins",
    key="penguin_id",
    input=PenguinInput,
    prediction=PenguinPrediction,
    label="species",
    task=multiclass(*get_args(Species)),
)
