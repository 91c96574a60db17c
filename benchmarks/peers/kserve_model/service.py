"""KServe's Python server with a custom model: V2 requests by customer id, features from SQLite."""

import argparse
import os
import sqlite3

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.errors import InvalidInput
from xgboost import XGBClassifier


class ChurnModel(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = False

    def load(self) -> bool:
        self.model = XGBClassifier()
        self.model.load_model(os.environ["PEER_MODEL"])
        self.connection = sqlite3.connect(os.environ["PEER_FEATURES"], check_same_thread=False)
        self.ready = True
        return True

    def fetch_features(self, customer_id: int) -> list:
        row = self.connection.execute("SELECT * FROM customers WHERE customer_id = ?", (customer_id,)).fetchone()
        if row is None:
            raise InvalidInput(f"unknown customer {customer_id}")
        return list(row)[1:]

    async def predict(self, payload, headers=None, response_headers=None):
        if not isinstance(payload, InferRequest):
            rows = [self.fetch_features(instance["customer_id"]) for instance in payload["instances"]]
            return {"predictions": self.model.predict_proba(rows)[:, 1].tolist()}
        customer_ids = payload.inputs[0].as_numpy().ravel()
        rows = [self.fetch_features(int(customer_id)) for customer_id in customer_ids]
        scores = self.model.predict_proba(rows)[:, 1].astype(np.float64)
        output = InferOutput("churn_probability", [len(scores), 1], "FP64")
        output.set_data_from_numpy(scores.reshape(-1, 1), binary_data=False)
        return InferResponse(payload.id or "", self.name, [output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    arguments, _ = parser.parse_known_args()
    model = ChurnModel("churn")
    model.load()
    ModelServer().start([model])
