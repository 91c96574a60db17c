"""The node `features` (TRANSFORMER): keys and given values in, the packed feature matrix out.

    <key> INT64 or BYTES [n, 1] (and features that the caller gives)  ->  features FP32 [n, WIDTH]

Its children, stock MLServer servers too, get exactly one input: the matrix in the contract's encoding. Missing rows and
a store that is down are handled as in the one-model service, with the same settings.
"""

from __future__ import annotations

import time
from functools import partial

from mlserver import MLModel
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, ResponseOutput

from custom_runtime.features.adapters import open_store
from custom_runtime.graph.parameters import NodeParameters, read_parameters
from custom_runtime.graph.tensors import FEATURES
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.bundle import bundle_directory, read_bundle
from custom_runtime.model.encoding import WIDTH, Matrix
from custom_runtime.prediction.assembly import Assembler
from custom_runtime.prediction.predictor import Lookup
from custom_runtime.prediction.query import Query
from custom_runtime.protocol import v2
from custom_runtime.protocol.mlserver_messages import refusing, tensor_of
from custom_runtime.settings import ServingSettings


class FeatureNode(MLModel):  # type: ignore[misc]
    """Fetches feature rows for the keys of a request."""

    def __init__(self, settings: ModelSettings) -> None:
        read_parameters(NodeParameters, settings)  # it has none: the store and its policies are SERVING_* settings
        self.serving = ServingSettings()
        uri = settings.parameters.uri if settings.parameters else None
        # The bundle has the training defaults and the contract's fingerprint; no model of it is loaded here.
        self.bundle = read_bundle(bundle_directory(uri, settings._source, self.serving.bundle))
        if settings.parameters is None:
            settings.parameters = ModelParameters()
        settings.parameters.version = self.bundle.version
        super().__init__(settings)
        self.outputs = [MetadataTensor(name=FEATURES, datatype="FP32", shape=[-1, WIDTH])]

    async def load(self) -> bool:
        """Open the store. Raises StartupError."""
        self.store = open_store(
            self.serving.feature_store, name=self.bundle.name, fingerprint=self.bundle.contract_fingerprint
        )
        await self.store.open()
        self.metrics = ServingMetrics(
            model=self.name, version=self.bundle.version, predictor=self.serving.predictor, store=self.store.kind
        )
        self._fetch = Lookup(
            self.store, settings=self.serving, metrics=self.metrics, clock=time.monotonic, wall_clock=time.time
        ).fetch
        self._assembler = Assembler.of(self.bundle.defaults, self.serving)
        return True

    async def unload(self) -> bool:
        """Close the store."""
        await self.store.close()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer with the feature matrix of the request's keys."""
        with refusing(partial(self.metrics.observe_request, "v2_rest")):
            rows = await self._rows(v2.decode([tensor_of(given) for given in payload.inputs]))
        output = ResponseOutput(name=FEATURES, datatype="FP32", shape=list(rows.shape), data=rows.ravel().tolist())
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])

    async def _rows(self, query: Query) -> Matrix:
        fetched = await self._fetch(query.keys) if query.needs_store else None
        rows, (source,) = self._assembler.assemble([query], fetched)
        if isinstance(source, Exception):
            raise source
        return rows
