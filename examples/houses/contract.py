"""The contract of house prices: a regression whose value is an amount of money."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from custom_runtime.schema import (
    KEY_MAXIMUM,
    Contract,
    FeatureSource,
    category,
    integer,
    regression,
    remove_null_defaults,
)


class HouseInput(BaseModel):
    """One house. Only parcel_id is required; a feature given here overrides the stored one."""

    model_config = ConfigDict(extra="forbid", strict=True, title="HouseInput", json_schema_extra=remove_null_defaults)

    parcel_id: int = Field(ge=0, le=KEY_MAXIMUM, description="The parcel's number.", examples=[42])
    neighborhood: Literal[
        "Bloomington_Heights",
        "Blueste",
        "Briardale",
        "Brookside",
        "Clear_Creek",
        "College_Creek",
        "Crawford",
        "Edwards",
        "Gilbert",
        "Green_Hills",
        "Greens",
        "Iowa_DOT_and_Rail_Road",
        "Landmark",
        "Meadow_Village",
        "Mitchell",
        "North_Ames",
        "Northpark_Villa",
        "Northridge",
        "Northridge_Heights",
        "Northwest_Ames",
        "Old_Town",
        "Sawyer",
        "Sawyer_West",
        "Somerset",
        "South_and_West_of_Iowa_State_University",
        "Stone_Brook",
        "Timberland",
        "Veenker",
    ] = category("The part of the city.", example="North_Ames")
    bldg_type: Literal["Duplex", "OneFam", "Twnhs", "TwnhsE", "TwoFmCon"] = category(
        "The type of the building.", example="OneFam"
    )
    overall_cond: Literal[
        "Above_Average",
        "Average",
        "Below_Average",
        "Excellent",
        "Fair",
        "Good",
        "Poor",
        "Very_Good",
        "Very_Poor",
    ] = category("The condition of the house.", example="Average")
    foundation: Literal["BrkTil", "CBlock", "PConc", "Slab", "Stone", "Wood"] = category(
        "The foundation.", example="PConc"
    )
    central_air: Literal["N", "Y"] = category("Whether there is central air conditioning.", example="Y")
    garage_type: Literal[
        "Attchd",
        "Basment",
        "BuiltIn",
        "CarPort",
        "Detchd",
        "More_Than_Two_Types",
        "No_Garage",
    ] = category("Where the garage is.", example="Attchd")
    lot_area: int = integer("The size of the lot.", unit="ft2", minimum=0, maximum=1_000_000, example=9600)
    year_built: int = integer("When it was built.", minimum=1700, maximum=2200, example=2005)
    total_bsmt_sf: int = integer("The size of the basement.", unit="ft2", minimum=0, maximum=20_000, example=990)
    gr_liv_area: int = integer("The living area above the ground.", unit="ft2", minimum=0, maximum=20_000, example=864)
    full_bath: int = integer("Full bathrooms.", minimum=0, maximum=8, example=2)
    bedroom_abv_gr: int = integer("Bedrooms above the ground.", minimum=0, maximum=16, example=3)
    fireplaces: int = integer("Fireplaces.", minimum=0, maximum=8, example=0)
    garage_cars: int = integer("How many cars the garage takes.", minimum=0, maximum=10, example=2)
    year_sold: int = integer("When it is sold.", minimum=2000, maximum=2100, example=2007)


class HousePrediction(BaseModel):
    """The response for one house."""

    model_config = ConfigDict(title="HousePrediction", protected_namespaces=())

    parcel_id: int = Field(description="The parcel's number.", examples=[42])
    sale_price: float = Field(ge=0, le=1_000_000, description="The price in USD.", examples=[135000.0])
    model_version: str = Field(description="The registered model version that gave the answer.", examples=["1"])
    features: FeatureSource = Field(
        description="Where the features came from: store, request or default.", examples=["store"]
    )


CONTRACT = Contract(
    name="houses",
    key="parcel_id",
    input=HouseInput,
    prediction=HousePrediction,
    label="sale_price",
    task=regression(),
)
