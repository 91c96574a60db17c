"""The contract of credit default: an account with a text key, three numbers that may be blank, one probability."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
    Contract,
    FeatureSource,
    binary,
    category,
    integer,
    numeric,
    remove_null_defaults,
)


class CreditInput(BaseModel):
    """One account. Only account_id is required; a feature given here overrides the stored one."""

    model_config = ConfigDict(extra="forbid", strict=True, title="CreditInput", json_schema_extra=remove_null_defaults)

    account_id: str = Field(max_length=32, description="The account to score.", examples=["ACC-000042"])
    seniority: int = integer("Time in the present job.", unit="years", minimum=0, maximum=100, example=8)
    home: Literal["ignore", "other", "owner", "parents", "priv", "rent", "unknown"] = category(
        "Who owns the applicant's home.", example="owner"
    )
    time: int = integer("The term of the loan.", unit="months", minimum=1, maximum=120, example=48)
    age: int = integer("The applicant's age.", unit="years", minimum=18, maximum=120, example=37)
    marital: Literal["divorced", "married", "separated", "single", "unknown", "widow"] = category(
        "The marital status.", example="married"
    )
    records: Literal["no", "yes"] = category("Whether there are records of unpaid debts.", example="no")
    job: Literal["fixed", "freelance", "others", "partime", "unknown"] = category("The kind of job.", example="fixed")
    expenses: int = integer("Expenses in a month.", minimum=0, maximum=10_000, example=55)
    income: float | None = numeric("Income in a month.", minimum=0, maximum=100_000, example=142.0)
    assets: float | None = numeric("What the applicant owns.", minimum=0, maximum=10_000_000, example=3000.0)
    debt: float | None = numeric("What the applicant owes.", minimum=0, maximum=10_000_000, example=0.0)
    amount: int = integer("The loan's amount.", minimum=1, maximum=1_000_000, example=1000)
    price: int = integer("The price of what is bought.", minimum=1, maximum=1_000_000, example=1463)


class CreditPrediction(BaseModel):
    """The response for one account."""

    model_config = ConfigDict(title="CreditPrediction", protected_namespaces=())

    account_id: str = Field(description="The account that was scored.", examples=["ACC-000042"])
    default_probability: float = Field(
        ge=0, le=1, description="The probability that the loan is not paid back.", examples=[0.21]
    )
    model_version: str = Field(description="The registered model version that gave the score.", examples=["1"])
    features: FeatureSource = Field(
        description="Where the features came from: store, request or default.", examples=["store"]
    )


CONTRACT = Contract(
    name="credit",
    key="account_id",
    input=CreditInput,
    prediction=CreditPrediction,
    label="status",
    task=binary(negative="good", positive="bad"),
)
