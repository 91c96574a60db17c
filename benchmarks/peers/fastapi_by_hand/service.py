"""FastAPI by hand, the decision record's reversal plan as most teams would write it: one process, one file."""

import os
import sqlite3

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from xgboost import XGBClassifier

app = FastAPI()

model = XGBClassifier()
model.load_model(os.environ["PEER_MODEL"])
connection = sqlite3.connect(os.environ["PEER_FEATURES"], check_same_thread=False)
connection.row_factory = sqlite3.Row


class ChurnInput(BaseModel):
    customer_id: int
    tenure_months: float | None = None
    monthly_charges: float | None = None


class ChurnOutput(BaseModel):
    customer_id: int
    churn_probability: float


def fetch_features(customer_id: int) -> dict:
    row = connection.execute("SELECT * FROM customers WHERE customer_id = ?", (customer_id,)).fetchone()
    if row is None:
        raise HTTPException(status_code=404, detail=f"unknown customer {customer_id}")
    return {name: row[name] for name in row.keys() if name != "customer_id"}  # noqa: SIM118


@app.get("/ready")
def ready() -> dict:
    return {"ready": True}


@app.post("/predict")
async def predict(input: ChurnInput) -> ChurnOutput:
    features = fetch_features(input.customer_id)
    features.update(input.model_dump(exclude={"customer_id"}, exclude_none=True))
    score = model.predict_proba([list(features.values())])[0][1]
    return ChurnOutput(customer_id=input.customer_id, churn_probability=float(score))
