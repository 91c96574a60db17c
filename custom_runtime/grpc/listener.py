"""Chooses the engine that carries gRPC."""

from __future__ import annotations

from typing import Any

from mlserver.settings import Settings

from custom_runtime.grpc.grpcio_engine import GrpcioListener
from custom_runtime.grpc.http2_listener import Http2Listener
from custom_runtime.grpc.method import MethodTable
from custom_runtime.grpc.methods import Methods
from custom_runtime.grpc.observed import ObservedMethods
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.observing import RequestObserver
from custom_runtime.settings import ServingSettings


def grpc_listener(
    settings: Settings,
    data_plane: Any,
    handlers: Any,
    models: LoadedModels,
    serving: ServingSettings,
    observer: RequestObserver | None = None,
) -> GrpcioListener | Http2Listener:
    """Return the listener of MLServer's gRPC port. Raises StartupError: a token or a certificate cannot be read."""
    methods: MethodTable = Methods(data_plane, handlers, models, admin_api=serving.admin_api)
    if observer is not None:
        methods = ObservedMethods(methods, observer)
    if serving.grpc_engine == "grpcio":
        return GrpcioListener(settings, data_plane, handlers, methods, serving)
    return Http2Listener(settings.host, settings.grpc_port, methods, serving)
