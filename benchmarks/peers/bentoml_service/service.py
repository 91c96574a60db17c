"""The decision record's BentoML service on the current release, its feature fetch filled in; default settings."""

import os
import sqlite3

import bentoml
from pydantic import BaseModel
from xgboost import XGBClassifier


class ChurnInput(BaseModel):
    customer_id: int
    tenure_months: float | None = None
    monthly_charges: float | None = None


@bentoml.service(traffic={"timeout": 30})
class ChurnPredictor:
    def __init__(self) -> None:
        self.model = XGBClassifier()
        self.model.load_model(os.environ["PEER_MODEL"])
        self.connection = sqlite3.connect(os.environ["PEER_FEATURES"], check_same_thread=False)
        self.connection.row_factory = sqlite3.Row

    async def _fetch_features(self, input: ChurnInput) -> list:
        query = "SELECT * FROM customers WHERE customer_id = ?"
        row = self.connection.execute(query, (input.customer_id,)).fetchone()
        if row is None:
            raise bentoml.exceptions.NotFound(f"unknown customer {input.customer_id}")
        features = {name: row[name] for name in row.keys() if name != "customer_id"}  # noqa: SIM118
        features.update(input.model_dump(exclude={"customer_id"}, exclude_none=True))
        return list(features.values())

    @bentoml.api
    async def predict(self, input: ChurnInput) -> dict:
        features = await self._fetch_features(input)
        score = self.model.predict_proba([features])[0][1]
        return {"churn_probability": float(score)}
