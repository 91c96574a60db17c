"""LitServe with the model in ONNX Runtime: one worker, no batching timer (its default), features from SQLite."""

import os
import sqlite3
import sys

import litserve
import numpy as np
import onnxruntime


class ChurnAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["PEER_ONNX"], options, providers=["CPUExecutionProvider"]
        )
        (self.model_input,) = self.session.get_inputs()
        self.connection = sqlite3.connect(os.environ["PEER_FEATURES"], check_same_thread=False)

    def decode_request(self, request: dict) -> int:
        return int(request["customer_id"])

    def predict(self, customer_id: int) -> tuple[int, float]:
        row = self.connection.execute("SELECT * FROM customers WHERE customer_id = ?", (customer_id,)).fetchone()
        rows = np.array([row[1:]], dtype=np.float32)
        (scores,) = self.session.run(None, {self.model_input.name: rows})
        return customer_id, float(scores.ravel()[-1])

    def encode_response(self, output: tuple[int, float]) -> dict:
        return {"customer_id": output[0], "churn_probability": output[1]}


if __name__ == "__main__":
    server = litserve.LitServer(ChurnAPI(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
