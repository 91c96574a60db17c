"""An MLServer runtime that answers, raises or does not answer, as the id of the request says."""

from __future__ import annotations

import time

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

HANG_S = 2.0


class SlowRuntime(MLModel):  # type: ignore[misc]
    """Raises for the id "raise", takes HANG_S for "hang", and answers no response for "nonsense"."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        if payload.id == "raise":
            raise ZeroDivisionError
        if payload.id == "hang":
            time.sleep(HANG_S)  # noqa: ASYNC251 (as runtimes do: they compute in their coroutine)
        if payload.id == "nonsense":
            return {"no": "response"}
        output = ResponseOutput(name="predict", datatype="FP32", shape=[1, 1], data=[0.5])
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
