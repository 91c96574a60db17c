"""The same predictor as a component of Seldon's own protocol, for gateways that still speak `/api/v1.0/predictions`.

    seldon-core-microservice custom_runtime.seldon_component.TabularComponent --service-type MODEL

`data` takes a column named after the contract's key (a single column needs no name); further columns are features. The
response has the probability, the value or the probability of each class per row. `jsonData` has the request and
response bodies of /predict. The wrapper calls from its own threads, which share one event loop, so requests that wait
at the same moment are scored together here too.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
import orjson
from seldon_core.flask_utils import SeldonMicroserviceException
from seldon_core.user_model import SeldonComponent, SeldonResponse

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, NotReady, ServingError
from custom_runtime.features.adapters import open_store
from custom_runtime.features.store import Keys
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.bundle import read_bundle
from custom_runtime.model.encoding import POSITIONS
from custom_runtime.model.scoring import open_scorer
from custom_runtime.prediction.outputs import READERS
from custom_runtime.prediction.predictor import Predictor
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.protocol import predict_json as predict_body
from custom_runtime.protocol import v2
from custom_runtime.records.configuration import open_recorder
from custom_runtime.schema import FEATURE_SOURCES
from custom_runtime.settings import ServingSettings

Result = TypeVar("Result")
# float64, the only type of a Seldon `tensor`, represents every integer below this exactly.
EXACT_FLOAT = 2**53
NAME = CONTRACT.name
KEY = CONTRACT.key_field
# What an array of predictions has: the probability, the probability of each class, or the value.
_MAIN = next(output for output in CONTRACT.outputs if output.role in ("probability", "probabilities", "value"))
_SOURCES = "features"


class TabularComponent(SeldonComponent):  # type: ignore[misc]
    """Serves one bundle over Seldon's protocol, REST and gRPC; settings are the SERVING_* variables of the service."""

    def __init__(self) -> None:
        super().__init__()
        self._settings = ServingSettings()
        self._bundle = read_bundle(self._settings.bundle)  # before load(): the wrapper reads the metadata first
        self._body = predict_body.PredictionBody(self._bundle.version)
        self._predictor: Predictor | None = None

    def load(self) -> None:
        """Open store and model in the calling process, because the wrapper forks before it. Raises StartupError."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="serving-loop", daemon=True).start()
        self._store = open_store(self._settings.feature_store)
        self._predictor = self._run(self._open())

    def predict(self, X: Any, names: Sequence[str], meta: Any = None) -> SeldonResponse:
        """Return float64 [n, outputs] for an array [n, columns], or the body of /predict for jsonData."""
        with _wrapper_errors():
            if isinstance(X, dict):
                query = predict_body.parse(orjson.dumps(X))
                prediction = self._predict(query)
                answer = orjson.loads(self._body.render(query, prediction))
            else:
                prediction = self._predict(v2.decode(_tensors(X, names)))
                answer = np.array(READERS[_MAIN.name](prediction)).reshape(-1, _MAIN.columns)
        sources = [FEATURE_SOURCES[source] for source in prediction.sources]
        counted = [_count("serving_rows", sources.count(source), features=source) for source in sorted(set(sources))]
        return SeldonResponse(data=answer, tags={_SOURCES: sources}, metrics=counted)

    def class_names(self) -> list[str]:
        """Return the names of the response's columns."""
        return [_MAIN.name] if _MAIN.columns == 1 else list(CONTRACT.task.classes)

    def tags(self) -> dict[str, str]:
        """Return the model and its version, which the wrapper adds to every response."""
        return {"model": NAME, "model_version": self._bundle.version}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the gauge that names the loaded model; the counts of a request come with its response."""
        tags = {"model": NAME, "version": self._bundle.version, "predictor": self._settings.predictor}
        return [{"type": "GAUGE", "key": "serving_model_info", "value": 1, "tags": tags}]

    def health_status(self) -> dict[str, Any]:
        """Read the feature store once: the component is ready when it can answer a request."""
        with _wrapper_errors():
            self._ready()
            if KEY is not None:
                self._run(
                    self._store.fetch(cast("Keys", [KEY.example]), timeout_s=self._settings.store_timeout_ms / 1000)
                )
        return self.tags() | {"store": self._store.kind}

    def init_metadata(self) -> dict[str, Any]:
        """Describe inputs and outputs, from the contract."""
        names, outputs = list(v2.DATATYPES), self.class_names()
        return {
            "name": NAME,
            "versions": [self._bundle.version],
            "platform": "seldon",
            "inputs": [{"messagetype": "ndarray", "schema": {"names": names, "shape": [len(names)]}}],
            "outputs": [{"messagetype": "ndarray", "schema": {"names": outputs, "shape": [len(outputs)]}}],
        }

    def send_feedback(
        self, features: Any, feature_names: Sequence[str], reward: float, truth: Any, routing: int | None = None
    ) -> SeldonResponse:
        """Count a feedback by whether it carries the true label. The feedback changes no prediction."""
        known = "given" if np.size(truth) and truth is not None else "missing"
        return SeldonResponse(data=[], metrics=[_count("serving_feedback", 1, truth=known)])

    async def _open(self) -> Predictor:
        await self._store.open()
        series = ServingMetrics(
            model=NAME,
            version=self._bundle.version,
            predictor=self._settings.predictor,
            store=self._store.kind,
        )
        recorder = open_recorder(self._settings, series, model=NAME, version=self._bundle.version)
        if recorder is not None:
            atexit.register(recorder.close)  # the wrapper says no other end
        return Predictor(
            scorer=open_scorer(self._bundle, self._settings.scorer),
            store=self._store,
            defaults=self._bundle.defaults,
            settings=self._settings,
            metrics=series,
            recorder=recorder,
        )

    def _ready(self) -> Predictor:
        if self._predictor is None:
            raise NotReady(f"model {NAME!r} is loading; retry later")
        return self._predictor

    def _predict(self, query: Query) -> Prediction:
        predictor = self._ready()
        predictor.check_rows(query.size)
        return self._run(predictor.predict(query))

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def _wrapper_errors() -> Iterator[None]:
    """Convert a ServingError into the wrapper's exception, with the same status, and the code as its reason."""
    try:
        yield
    except ServingError as error:
        raise SeldonMicroserviceException(str(error), status_code=error.status, reason=error.code) from error


def _count(key: str, value: int, **tags: str) -> dict[str, Any]:
    return {"type": "COUNTER", "key": key, "value": value, "tags": tags}


def _tensors(values: Any, names: Sequence[str]) -> list[v2.Tensor]:
    """Split an array [n] or [n, columns] into V2 inputs. Raises InvalidInput."""
    table = np.asarray(values)
    table = table.reshape(-1, 1) if table.ndim == 1 else table
    named = list(names) or [CONTRACT.row_field]
    if table.ndim != 2 or table.shape[1] != len(named):
        raise InvalidInput(f"data has shape {list(table.shape)} for {len(named)} names; allowed: one column per name")
    return [_tensor(name, table[:, position].tolist()) for position, name in enumerate(named)]


def _tensor(name: str, values: list[Any]) -> v2.Tensor:
    # An array has one type: beside a category, numbers arrive as text; beside a fraction, integers arrive as floats.
    if KEY is not None and name == KEY.name and not KEY.is_text:
        return v2.Tensor(name, KEY.datatype, [len(values)], _each(name, values, _integer))
    position = POSITIONS.get(name)
    if position is None or CONTRACT.features[position].is_category:
        return v2.Tensor(name, "BYTES", [len(values)], values)
    return v2.Tensor(name, "FP64", [len(values)], _each(name, values, float))


def _each(name: str, values: list[Any], convert: Callable[[Any], Result]) -> list[Result]:
    try:
        return [convert(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: {error}") from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not (value.is_integer() and abs(value) < EXACT_FLOAT)):
        raise ValueError(f"{value!r} is not a whole number that a float holds exactly")
    return int(value)
