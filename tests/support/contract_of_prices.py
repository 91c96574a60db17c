"""A contract without a key: a regression with an interval, from features of which one may be missing."""

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import Contract, boolean, integer, numeric, regression, remove_null_defaults


class PriceInput(BaseModel):
    """One offer. There is no key: every feature is given."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=remove_null_defaults)

    area: float = numeric("The area.", unit="m2", minimum=1, maximum=1_000, example=80.0)
    rooms: int = integer("The rooms.", minimum=1, maximum=50, example=3)
    balcony: bool | None = boolean("Whether there is a balcony.", example=True)


class PricePrediction(BaseModel):
    """The price of one offer."""

    model_config = ConfigDict(protected_namespaces=())

    price: float = Field(ge=0, le=2_000, description="The price, thousands.", examples=[310.5])
    interval: tuple[float, float] = Field(description="Its 90 % interval.", examples=[[280.0, 350.0]])
    model_version: str = Field(description="The version that gave the answer.", examples=["7"])


CONTRACT = Contract(
    name="prices", key=None, input=PriceInput, prediction=PricePrediction, label="price", task=regression()
)
