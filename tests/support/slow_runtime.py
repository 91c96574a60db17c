"""An MLServer runtime that answers, raises or does not answer, as its test says."""

from __future__ import annotations

import threading

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class SlowRuntime(MLModel):  # type: ignore[misc]
    """mode: "answer", "raise", or "hang" until `released` is set."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.mode = "answer"
        self.released = threading.Event()

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if self.mode == "raise":
            raise ZeroDivisionError
        if self.mode == "hang":
            self.released.wait(30)
        output = ResponseOutput(name="predict", datatype="FP32", shape=[1, 1], data=[0.5])
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
