"""The MLServer runtime: V2 requests and POST /predict <-> predictor.

It works under plain `mlserver start`. `server/server.py` adds faster routes that call the same methods.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from mlserver import MLModel
from mlserver.handlers import custom_handler
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.active import CONTRACT
from custom_runtime.errors import NotExplainable, NotReady, StartupError
from custom_runtime.features.adapters import open_store
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.bundle import bundle_directory, read_bundle
from custom_runtime.model.explaining import Explainer, open_explainer
from custom_runtime.model.scoring import open_scorer, scorer_kind
from custom_runtime.prediction.coalescer import Submission
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.predictor import Predictor
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.protocol import explanations, v2
from custom_runtime.protocol import predict_json as predict_body
from custom_runtime.protocol.mlserver_messages import body_of, refusing, respond, route_of, tensor_of
from custom_runtime.protocol.v2_json import timeout_s_of
from custom_runtime.records.configuration import open_recorder
from custom_runtime.settings import ServingSettings

log = structlog.get_logger()


class TabularRuntime(MLModel):  # type: ignore[misc]
    """Serves one bundle: features from the store, scores from ONNX Runtime."""

    def __init__(self, settings: ModelSettings) -> None:
        self.serving = ServingSettings()
        # The version is known before load(): MLServer registers a model under it, then loads it.
        uri = settings.parameters.uri if settings.parameters else None
        self.bundle = read_bundle(bundle_directory(uri, settings._source, self.serving.bundle))
        if settings.parameters is None:
            settings.parameters = ModelParameters()
        settings.parameters.version = self.bundle.version
        settings.platform = scorer_kind(self.bundle, self.serving.scorer)
        settings.versions = [self.bundle.version]
        super().__init__(settings)
        self.inputs = [
            MetadataTensor(
                name=name,
                datatype=datatypes[0],
                shape=[-1, 1],
                parameters=Parameters(required=True) if CONTRACT.key in (None, name) else None,
            )
            for name, datatypes in v2.DATATYPES.items()
        ]
        self.outputs = [
            MetadataTensor(name=output.name, datatype=output.datatype, shape=[-1, output.columns])
            for output in CONTRACT.outputs
        ]
        self.body = predict_body.PredictionBody(self.bundle.version)
        # Set by server/server.py, whose routes and servicer measure a request from its first byte to its last.
        self.observed_at_edge = False

    async def load(self) -> bool:
        """Open the store and the model. Raises StartupError, and the process must not start."""
        if not self.observed_at_edge and (self.serving.token or self.serving.token_file or self.serving.tls_cert):
            error = StartupError("a token or TLS is set; `mlserver start` knows neither; run: scripts/serve.py")
            log.error("model_refused", reason=str(error))  # MLServer exits without a message
            raise error
        store = open_store(self.serving.feature_store)
        await store.open()
        self.metrics = ServingMetrics(
            model=self.name, version=self.bundle.version, predictor=self.serving.predictor, store=store.kind
        )
        self.store = store
        scorer = open_scorer(self.bundle, self.serving.scorer)
        self.recorder = open_recorder(self.serving, self.metrics, model=self.name, version=self.bundle.version)
        self.predictor = Predictor(
            scorer=scorer,
            store=store,
            defaults=self.bundle.defaults,
            settings=self.serving,
            metrics=self.metrics,
            recorder=self.recorder,
            explainer=self._explainer(),
        )
        log.info("model_loaded", model=self.name, version=self.bundle.version, store=store.kind)
        return True

    def _explainer(self) -> Explainer | NotExplainable | None:
        """Return what explains the model, or why nothing does: a model without explanations is served all the same."""
        if not self.serving.explanations:
            return None
        try:
            return open_explainer(self.bundle)
        except NotExplainable as error:
            log.info("no_explanations", model=self.name, version=self.bundle.version, reason=str(error))
            return error

    async def unload(self) -> bool:
        """Wait for the requests in flight, then close the store."""
        if hasattr(self, "predictor"):
            await self.predictor.close()
            await self.store.close()
            if self.recorder is not None:
                await asyncio.to_thread(self.recorder.close)
        return True

    async def infer(
        self,
        tensors: Sequence[v2.Tensor],
        *,
        inference_id: str | None = None,
        timeout_s: float | None = None,
        is_explained: bool = False,
    ) -> Prediction | ExplainedPrediction:
        """Answer V2 inputs; big ones are decoded on the worker thread. Raises ServingError."""
        rows = v2.rows_of(tensors)
        self.predictor.check_rows(rows)
        if rows <= self.predictor.offload_rows:
            query = v2.decode(tensors, inference_id)
        else:
            loop = asyncio.get_running_loop()
            query = await loop.run_in_executor(self.predictor.thread, v2.decode, tensors, inference_id)
        if is_explained:
            return await self.predictor.explain(query, timeout_s=timeout_s)
        return await self.predictor.predict(query, timeout_s=timeout_s)

    def submit(
        self, tensors: list[v2.Tensor], *, inference_id: str | None = None, timeout_s: float | None = None
    ) -> asyncio.Future[Any] | Submission[Query, Prediction]:
        """Do the same without a coroutine where the rows are few. Raises ServingError, or what it returns does."""
        rows = v2.rows_of(tensors)
        if rows > self.predictor.offload_rows:
            inferring = self.infer(tensors, inference_id=inference_id, timeout_s=timeout_s)
            return asyncio.get_running_loop().create_task(inferring)
        self.predictor.check_wait(needs_store=v2.needs_store(tensors))
        return self.predictor.submit(v2.decode(tensors, inference_id), timeout_s=timeout_s)

    async def answer(self, body: bytes, url_query: bytes = b"") -> bytes:
        """Answer the body of POST /predict. Raises ServingError."""
        query: Query = predict_body.parse(body)
        count = explanations.count_of_query(url_query)
        if count is not None:
            return self.body.render_explained(query, count, await self.predictor.explain(query))
        return self.body.render(query, await self.predictor.predict(query))

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a V2 request that came through MLServer's own routes."""
        with refusing(partial(self._observe, route_of(payload))):
            explain = explanations.count_of(getattr(payload.parameters, explanations.PARAMETER, None))
            requested = v2.check_outputs([output.name for output in payload.outputs or ()], explain)
            prediction = await self.infer(
                [tensor_of(given) for given in payload.inputs],
                inference_id=payload.id,
                timeout_s=timeout_s_of(getattr(payload.parameters, "timeout", None)),
                is_explained=explain is not None or explanations.is_asked(requested),
            )
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[ResponseOutput(**output) for output in v2.encode_outputs(prediction, requested, explain)],
        )

    @custom_handler(rest_path="/predict")  # type: ignore[untyped-decorator]
    async def predict_route(self, request: Request) -> Response:
        """POST /predict under plain `mlserver start`; a raw request, so that FastAPI parses nothing twice."""
        started = time.perf_counter()
        response = await respond(self._answer_request(request), "predict")
        if self.ready:
            self._observe("predict", response.status_code, time.perf_counter() - started)
        return response

    async def _answer_request(self, request: Request) -> bytes:
        if not self.ready:  # MLServer mounts handlers before load() has ended
            raise NotReady(f"model {self.name!r} is loading; retry later")
        return await self.answer(await body_of(request, self.serving.max_predict_bytes), request.url.query.encode())

    def _observe(self, route: str, status: int, seconds: float) -> None:
        if not self.observed_at_edge:
            self.metrics.observe_request(route, status, seconds)
