"""The churn contract: what a caller sends, what a caller gets, and the features in between.

This is the only file that knows the domain. Training, loading, serving, OpenAPI, V2 metadata, the MLflow
signature, the feature row's order and its fingerprint all derive from `CONTRACT`. To serve another tabular model, write
a file like this one and name it in SERVING_CONTRACT.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
    KEY_MAXIMUM,
    Contract,
    FeatureSource,
    Origin,
    binary,
    category,
    numeric,
    remove_null_defaults,
)

NoYes = Annotated[Literal["No", "Yes"], Origin(values={"0": "No", "1": "Yes"})]
PhoneOption = Literal["No", "Yes", "No phone service"]
InternetOption = Literal["No", "Yes", "No internet service"]


class ChurnInput(BaseModel):
    """One customer. Only customer_id is required; a feature given here overrides the stored one."""

    model_config = ConfigDict(extra="forbid", strict=True, title="ChurnInput", json_schema_extra=remove_null_defaults)

    customer_id: int = Field(ge=0, le=KEY_MAXIMUM, description="The customer to score.", examples=[42])
    gender: Annotated[Literal["Female", "Male"], Origin("female", {"0": "Male", "1": "Female"})] = category(
        "The account holder's gender.", example="Female"
    )
    senior_citizen: NoYes = category("Whether the customer is 65 or older.", example="No")
    partner: NoYes = category("Whether the customer has a partner.", example="Yes")
    dependents: NoYes = category("Whether the customer lives with dependents.", example="No")
    tenure_months: Annotated[float, Origin("tenure")] = numeric(
        "How long the customer has stayed.", unit="months", minimum=0, maximum=600, example=12.0
    )
    phone_service: NoYes = category("Whether there is a phone line.", example="Yes")
    multiple_lines: PhoneOption = category("Whether there are several phone lines.", example="No")
    internet_service: Literal["No", "DSL", "Fiber optic"] = category("The internet connection.", example="Fiber optic")
    online_security: InternetOption = category("The online security option.", example="No")
    online_backup: InternetOption = category("The online backup option.", example="No")
    device_protection: InternetOption = category("The device protection option.", example="No")
    tech_support: InternetOption = category("The tech support option.", example="No")
    streaming_tv: InternetOption = category("The streaming TV option.", example="No")
    streaming_movies: InternetOption = category("The streaming movies option.", example="No")
    contract: Literal["Month-to-month", "One year", "Two year"] = category(
        "The contract's term.", example="Month-to-month"
    )
    paperless_billing: NoYes = category("Whether bills are sent by e-mail.", example="Yes")
    payment_method: Literal[
        "Bank transfer (automatic)", "Credit card (automatic)", "Electronic check", "Mailed check"
    ] = category("How the customer pays.", example="Electronic check")
    monthly_charges: float = numeric(
        "The current monthly bill.", unit="USD/month", minimum=0, maximum=10_000, example=70.35
    )
    # A blank total is a customer of zero months who was never billed (11 of the 7,043 reference rows).
    total_charges: Annotated[float, Origin(missing=0.0)] = numeric(
        "All charges so far.", unit="USD", minimum=0, maximum=1_000_000, example=844.2
    )


class ChurnPrediction(BaseModel):
    """The response for one customer."""

    model_config = ConfigDict(title="ChurnPrediction", protected_namespaces=())

    customer_id: int = Field(description="The customer that was scored.", examples=[42])
    churn_probability: float = Field(
        ge=0, le=1, description="The probability that the customer leaves.", examples=[0.3496]
    )
    model_version: str = Field(description="The registered model version that gave the score.", examples=["7"])
    features: FeatureSource = Field(
        description="Where the features came from: the feature store (those given in the request override it), "
        "the request alone (no fetch is made), or the training defaults (by policy, when the store has no row).",
        examples=["store"],
    )


CONTRACT = Contract(
    name="churn",
    key="customer_id",
    input=ChurnInput,
    prediction=ChurnPrediction,
    label="churn",
    task=binary(negative="No", positive="Yes"),
    # It has no customer_id: the row number is the id.
    reference_table=("modeldata", "wa_churn"),
    # Five random splits of the reference table give 0.839 to 0.861 (mean 0.848); a model below this is a broken one.
    floor={"auc": 0.83},
)
