"""Models of MLServer's other runtimes over gRPC: MLServer's own data plane answers and counts them."""

from __future__ import annotations

from typing import Any

import structlog
from mlserver.errors import MLServerError
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter

from custom_runtime.errors import Internal, InvalidInput, NotReady, ServingError, UnknownModel

log = structlog.get_logger()


class OtherRuntimes:
    """Answers inferences of models that this package does not serve itself."""

    def __init__(self, data_plane: Any) -> None:
        self._data_plane = data_plane

    async def infer(self, request: Any) -> bytes:
        """Answer a ModelInferRequest, typed or raw as it was asked. Raises ServingError."""
        try:
            payload = ModelInferRequestConverter.to_types(request)
            result = await self._data_plane.infer(
                payload=payload, name=request.model_name, version=request.model_version or None
            )
            is_raw = bool(request.raw_input_contents)
            content: bytes = ModelInferResponseConverter.from_types(result, use_raw=is_raw).SerializeToString()
        except ServingError:
            raise
        except MLServerError as error:
            raise translate(error) from None
        except Exception:
            log.exception("request_failed", route="v2_grpc", model=request.model_name)
            raise Internal from None
        return content


def translate(error: MLServerError) -> ServingError:
    """Return the error of our table for one of MLServer's."""
    if error.status_code == UnknownModel.status:
        return UnknownModel(str(error))
    if error.status_code == NotReady.status:
        return NotReady(str(error))
    if error.status_code in (400, InvalidInput.status):
        return InvalidInput(str(error))
    log.error("request_failed", reason=str(error))
    return Internal(str(error))
