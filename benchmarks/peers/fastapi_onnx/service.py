"""FastAPI by hand with the model in ONNX Runtime: what is left between the servers when they score with one engine."""

import os
import sqlite3

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["PEER_ONNX"], options, providers=["CPUExecutionProvider"])
(model_input,) = session.get_inputs()
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
    rows = np.array([list(features.values())], dtype=np.float32)
    (scores,) = session.run(None, {model_input.name: rows})
    return ChurnOutput(customer_id=input.customer_id, churn_probability=float(scores.ravel()[-1]))
