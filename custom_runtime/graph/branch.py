"""A branch that may fail without failing the request: another MLServer runtime, run with a limit of time.

Without it, the executor answers the caller with the first branch's error. `Branch` loads the runtime that
`implementation` names, calls it, and where that raises or takes longer than `timeout_ms` it answers a response without
outputs whose parameter `unavailable` says why. The combiner's `when_missing` then decides. A container that has died
cannot answer at all: the executor's readiness check fails, and the mesh sends its requests to other pods.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog
from mlserver import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.types import Parameters as MessageParameters
from pydantic import Field, ImportString, TypeAdapter, ValidationError

from custom_runtime.errors import StartupError
from custom_runtime.graph.parameters import NodeParameters, read_parameters
from custom_runtime.graph.tensors import UNAVAILABLE
from custom_runtime.repeated_failure import RepeatedFailure

log = structlog.get_logger()


class BranchParameters(NodeParameters):
    """What is wrapped.

    implementation: the runtime's class, e.g. mlserver_xgboost.XGBoostModel. predict_fn: mlserver_sklearn's option.
    """

    implementation: str
    timeout_ms: float = Field(100.0, gt=0)
    predict_fn: str | None = None


class Branch(MLModel):  # type: ignore[misc]
    """Answers with the wrapped runtime's response, or with a response that says why there is none."""

    def __init__(self, settings: ModelSettings) -> None:
        self.parameters = read_parameters(BranchParameters, settings)
        try:
            wrapped = TypeAdapter(ImportString[type[MLModel]]).validate_python(self.parameters.implementation)
        except ValidationError as error:
            raise StartupError(
                f"implementation is {self.parameters.implementation!r}: no such runtime is installed; "
                "example: mlserver_xgboost.XGBoostModel"
            ) from error
        if self.parameters.predict_fn is not None and settings.parameters is not None:
            settings.parameters.extra = {"predict_fn": self.parameters.predict_fn}
        self._wrapped: MLModel = wrapped(settings)
        # The runtimes compute in their coroutine: on a thread of their own, the limit of time holds.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="branch")
        self._failure = RepeatedFailure()
        super().__init__(settings)

    async def load(self) -> bool:
        """Load the wrapped runtime."""
        return bool(await self._wrapped.load())

    async def unload(self) -> bool:
        """Unload it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        return bool(await self._wrapped.unload())

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer within the limit of time, with the prediction or with the reason why there is none."""
        loop = asyncio.get_running_loop()
        timeout_s = self.parameters.timeout_ms / 1000
        try:
            # The coroutine is made on the thread: one that never gets its turn there must not exist.
            work = loop.run_in_executor(self._thread, lambda: asyncio.run(self._wrapped.predict(payload)))
            return InferenceResponse.model_validate(await asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            reason = f"no answer within {self.parameters.timeout_ms:g} ms"
            self._report(reason)
        except Exception as error:
            reason = f"{type(error).__name__}"
            self._report(reason, error)
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[],
            parameters=MessageParameters(**{UNAVAILABLE: reason}),
        )

    def _report(self, reason: str, error: Exception | None = None) -> None:
        """Log that requests got no answer of this branch."""
        if count := self._failure.count():
            log.warning("branch_unavailable", node=self.name, reason=reason, requests=count, exc_info=error)
