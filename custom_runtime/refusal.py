"""A ServingError on its way out: through MLServer, or as an HTTP answer."""

from __future__ import annotations

from mlserver.errors import MLServerError

from custom_runtime import predict_body
from custom_runtime.errors import ServingError


class RefusedRequest(MLServerError):  # type: ignore[misc]
    """A ServingError on its way through MLServer, which keeps its status and its message."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error), error.status)
        self.error = error


def render(error: ServingError) -> tuple[bytes, int, dict[str, str] | None]:
    """Return an error's body, HTTP status and headers."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return predict_body.render_error(error), error.status, headers
