"""The MLServer subclass that `scripts/serve.py` and the image run: fast routes, drain, locked admin API, exit codes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from mlserver import MLServer
from mlserver.errors import ModelNotFound
from mlserver.handlers import ModelRepositoryHandlers
from mlserver.repository import ModelRepository
from mlserver.repository.factory import ModelRepositoryFactory
from mlserver.settings import ModelSettings, Settings

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StartupError
from custom_runtime.grpc.listener import grpc_listener
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.observing import read_observer
from custom_runtime.rest.listener import MetricsListener, RestListener
from custom_runtime.runtime import TabularRuntime
from custom_runtime.server.logs import take_over_mlserver_log
from custom_runtime.settings import ServingSettings

log = structlog.get_logger()

# Set by the supervisor, and read by prometheus_client when it is imported.
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class TabularServer(MLServer):  # type: ignore[misc]
    """MLServer with our REST, gRPC and metrics listeners; everything else is MLServer's own."""

    def __init__(
        self,
        settings: Settings,
        serving: ServingSettings,
        on_ready: Callable[[], None],
        repository: NamedRepository,
    ) -> None:
        self.serving = serving
        self._repository = repository
        self._on_ready = on_ready
        self.models = LoadedModels()
        self._stopping: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._models_settings: list[ModelSettings] = []
        self._observer = read_observer(
            settings.tracing_server,
            service=settings.server_name,
            version=settings.server_version,
            access_log=serving.access_log,
        )
        settings.tracing_server = None  # MLServer would trace its own routes again
        super().__init__(settings)
        take_over_mlserver_log()

    def _create_servers(self) -> None:
        self._model_repository = self._repository
        self._model_repository_handlers = ModelRepositoryHandlers(self._repository, self._model_registry)
        shared = (self._settings, self._data_plane, self._model_repository_handlers, self.models, self.serving)
        observed = (*shared, self._observer)
        self._rest_server = RestListener(*observed)
        self._grpc_server = grpc_listener(*observed)
        self._kafka_server = None
        if self._settings.metrics_endpoint:
            self._metrics_server = MetricsListener(self._settings)

    def _add_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._begin_stop, self.serving.drain_delay_s)
        loop.add_signal_handler(signal.SIGINT, self._begin_stop, 0.0)  # Ctrl-C at a terminal: no drain delay
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)

    def _begin_stop(self, delay_s: float) -> None:
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._drain(delay_s))

    def _begin_reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        """Load every model again from its files; the old one serves until the new one is ready, or if it fails."""
        for model_settings in self._models_settings:
            try:
                model = await self._model_registry.load(model_settings)
            except Exception:
                log.exception("reload_failed", model=model_settings.name, serving="the model that was loaded before")
            else:
                log.info("model_reloaded", model=model.name, version=model.version)

    async def _drain(self, delay_s: float) -> None:
        """Turn unready, keep serving until load balancers have noticed, then finish the requests in flight."""
        log.info("draining", delay_s=delay_s)
        self.models.draining = True
        await asyncio.sleep(delay_s)
        # REST does not wait for gRPC's connections or streams.
        await asyncio.gather(self._rest_server.stop(signal.SIGTERM), self._grpc_server.wait_for_clients())
        await self.stop(signal.SIGTERM)
        log.info("drained")

    async def start(self, models_settings: list[ModelSettings] = []) -> None:  # noqa: B006  (MLServer's signature)
        """Serve until a signal. Raises StartupError, or what a listener raised.

        The models are loaded before a port is opened, so that no client connects to a process that cannot serve.
        """
        self._models_settings = list(models_settings)
        for model_settings in models_settings:
            await self._model_registry.load(model_settings)
        listeners = [self._rest_server.start(), self._grpc_server.start(), self._announce()]
        if self._metrics_server:
            listeners.append(self._metrics_server.start())
        tasks = [asyncio.ensure_future(listener) for listener in listeners]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in pending:  # one listener failed: the others must not outlive it
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
        if self._stopping is not None:
            await self._stopping
        for runtime in await self._model_registry.get_models():
            await runtime.unload()
        if self._observer is not None:
            await asyncio.to_thread(self._observer.close)

    async def _announce(self) -> None:
        await asyncio.gather(self._rest_server.started.wait(), self._grpc_server.started.wait())
        # Objects created by imports live as long as the process: without freeze, each full collection takes 30 ms.
        gc.collect()
        gc.freeze()
        self._on_ready()

    async def add_custom_handlers(self, model: Any) -> Any:
        """Register a model that is about to load with the fast routes."""
        if _is_tabular_runtime(model):
            model.observed_at_edge = True
            self.models.add(model)
        else:
            self.models.add_foreign(model.name)
        return await super().add_custom_handlers(model)

    async def reload_custom_handlers(self, old_model: Any, new_model: Any) -> Any:
        """Register the new model first; the old one serves until the new one is ready, and is removed on unload."""
        if _is_tabular_runtime(new_model):
            new_model.observed_at_edge = True
            self.models.add(new_model)
        else:
            self.models.add_foreign(new_model.name)
        await self._rest_server.add_custom_handlers(new_model)
        await self._rest_server.delete_custom_handlers(old_model)
        return new_model

    async def remove_custom_handlers(self, model: Any) -> Any:
        """Remove an unloaded model."""
        if _is_tabular_runtime(model):
            self.models.remove(model)
        else:
            self.models.remove_foreign(model.name)
        return await super().remove_custom_handlers(model)


def _is_tabular_runtime(model: Any) -> bool:
    # Compared by name: MLServer imports a runtime's module again when it loads it, and that class is another object.
    return any(kind.__qualname__ == TabularRuntime.__qualname__ for kind in type(model).__mro__)


Found = list[ModelSettings]


class NamedRepository(ModelRepository):  # type: ignore[misc]
    """MLServer's repository, in which our model has its contract's name: at the start, and in the repository API."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def list(self) -> Found:
        """Return the settings of every model in the folder."""
        found: Found = await self._repository.list()
        for model in found:
            _name_after_contract(model)
        return found

    async def find(self, name: str) -> Found:
        """Return the settings of the models of a name. Raises ModelNotFound."""
        found = [model for model in await self.list() if model.name == name]
        if not found:
            raise ModelNotFound(name)
        return found


async def serve(folder: Path, serving: ServingSettings, on_ready: Callable[[Settings], None]) -> None:
    """Serve the models below `folder` until a signal; `on_ready` is called once, when every port answers.

    Raises StartupError when a model cannot be loaded or a port is taken.
    """
    settings = _server_settings(folder)
    repository = NamedRepository(ModelRepositoryFactory.resolve_model_repository(settings))
    models_settings = await repository.list()
    if not models_settings:
        raise StartupError(f"no model-settings.json below {folder}; give the folder of a model with --models")
    server = TabularServer(settings, serving, lambda: on_ready(settings), repository)
    try:
        await server.start(models_settings)
    except (OSError, RuntimeError) as error:  # grpcio says RuntimeError when its port is taken
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise StartupError(
            f"cannot listen on {settings.host}: {reason}; choose free ports: MLSERVER_HTTP_PORT, MLSERVER_GRPC_PORT, "
            "MLSERVER_METRICS_PORT"
        ) from error


def _name_after_contract(model: Any) -> None:
    """Name our model after the contract, where neither its settings nor MLSERVER_MODEL_NAME name it.

    MLServer would take the name of its folder, which is the same for every contract.
    """
    is_named = "MLSERVER_MODEL_NAME" in os.environ or (
        model._source and json.loads(Path(model._source).read_bytes()).get("name")
    )
    if not is_named and model.implementation_.endswith(f".{TabularRuntime.__qualname__}"):
        model.name = CONTRACT.name


def _server_settings(folder: Path) -> Settings:
    """Return MLServer's settings: settings.json in the folder or beside it, then MLSERVER_* variables."""
    file = next(
        (
            directory / "settings.json"
            for directory in (folder, folder.parent)
            if (directory / "settings.json").exists()
        ),
        None,
    )
    settings = Settings.parse_file(str(file)) if file else Settings()
    settings.model_repository_root = str(folder)
    _warn_of_unsupported(settings)
    # Always off: MLServer's worker processes lose requests, and its debug mode leaks tracebacks.
    settings.parallel_workers = 0
    settings.debug = False
    settings.gzip_enabled = False
    if METRICS_DIRECTORY in os.environ:
        settings.metrics_endpoint = None  # one of several workers: the supervisor adds their metrics up
    return settings


def _warn_of_unsupported(settings: Settings) -> None:
    """Name in the log what is set for MLServer and has no effect here."""
    ignored = {
        "kafka_enabled": "there is no Kafka listener",
        "cache_enabled": "predictions are not cached: features change",
        "gzip_enabled": "answers are not compressed",
        "debug": "tracebacks are never sent to clients",
        "parallel_workers": "scale with --workers or with pods",
    }
    given = settings.model_fields_set
    for name, reason in ignored.items():
        if name in given and getattr(settings, name):
            log.warning(
                "setting_ignored", setting=f"MLSERVER_{name.upper()}", value=getattr(settings, name), reason=reason
            )
