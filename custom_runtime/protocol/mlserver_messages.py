"""Requests and errors in the form of MLServer's own routes.

Reads a request's body, tensors and route without copying them, and returns a ServingError through MLServer or as an
HTTP response.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, RequestInput
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.errors import Internal, ServingError, TooLarge
from custom_runtime.protocol import predict_json as predict_body
from custom_runtime.protocol import v2

log = structlog.get_logger()


async def body_of(request: Request, limit_bytes: int) -> bytes:
    """Return the whole body. Raises TooLarge as soon as it has more than limit_bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLarge(f"the body has more than {limit_bytes} bytes; allowed: {limit_bytes}")
    return body


def tensor_of(given: RequestInput) -> v2.Tensor:
    """Return an input as a `v2.Tensor`; the data is not copied."""
    datatype = given.datatype if isinstance(given.datatype, str) else given.datatype.value
    return v2.Tensor(given.name, datatype, given.shape, given.data.root)


def route_of(payload: InferenceRequest) -> str:
    """Return the route of a request, as in the metrics' label: "v2_rest" or "v2_grpc"."""
    # MLServer passes REST headers or gRPC metadata in the parameters; only HTTP/1.1 has a Host.
    headers = (payload.parameters and payload.parameters.headers) or {}
    return "v2_rest" if "host" in headers else "v2_grpc"


class RefusedRequest(MLServerError):  # type: ignore[misc]
    """A ServingError as an MLServerError: MLServer's routes return its status and its message."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error), error.status)
        self.error = error


@contextmanager
def refusing(observe: Callable[[int, float], None]) -> Iterator[None]:
    """Turn what a V2 call raises into what MLServer's routes answer with; observe its status and its seconds."""
    started, status = time.perf_counter(), 200
    try:
        yield
    except ServingError as error:
        status = error.status
        raise RefusedRequest(error) from None
    except Exception as error:
        status = 500
        log.exception("request_failed", route="v2")
        raise RefusedRequest(Internal("internal error; the server's log has the cause")) from error
    finally:
        observe(status, time.perf_counter() - started)


async def respond(content: Awaitable[bytes], route: str) -> Response:
    """Answer a custom route with JSON, or with an error as `render` shows it; route: for the log."""
    try:
        return Response(await content, media_type="application/json")
    except ServingError as error:
        refusal = render(error)
    except Exception:
        log.exception("request_failed", route=route)
        refusal = render(Internal())
    return Response(*refusal, media_type="application/json")


def render(error: ServingError) -> tuple[bytes, int, dict[str, str]]:
    """Return an error's body, HTTP status and headers."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return predict_body.render_error(error), error.status, headers
