"""The errors of the serving process as one tree, and how a client's values are shown in their messages.

    ServingError
    |-- InvalidInput          422  invalid_input        the caller's body or tensor breaks the contract
    |-- NotExplainable        422  not_explainable      this model's predictions cannot be explained here
    |-- UnknownKey            404  unknown_key          the feature store has no row, and the policy is `error`
    |-- UnknownModel          404  unknown_model        no such model or version is served here
    |-- NotFound              404  not_found            no such route
    |-- MethodNotAllowed      405  method_not_allowed   the route exists, the method does not
    |-- BadRequest            400  bad_request          the bytes are not a well-formed HTTP request
    |-- RequestTimeout        408  request_timeout      the request's body did not arrive in time
    |-- UnsupportedEncoding   415  unsupported_encoding the body is compressed
    |-- HeadersTooLarge       431  headers_too_large    request line or headers beyond the limit
    |-- ClientGone            499  client_gone          the caller left before its answer: counted, never sent
    |-- TooLarge              413  too_large            body bytes or batch rows beyond the limit
    |-- Forbidden             403  forbidden            the model repository API is locked
    |-- Unauthorized          401  unauthorized         a bearer token is required
    |-- StoreUnavailable      503  store_unavailable    the feature store is down or slow, and the policy is `error`
    |-- Overloaded            503  overloaded           more requests in flight than allowed: rejected at once
    |-- NotReady              503  not_ready            the model is still loading, or is draining
    |-- DeadlineExceeded      504  deadline_exceeded    no result before the request's deadline
    `-- Internal              500  internal             anything else; no detail leaves the process

    StartupError                                        the process must not start: exit code 1, one line
    |-- BundleError                                     a file of the bundle is missing, altered or unreadable
    |-- ContractMismatch                                bundle or store were made for another contract
    |-- StoreError                                      the feature store cannot be opened or loaded
    `-- RecordsError                                    the prediction records cannot be written or read as asked

A message says what happened, which value was received and what is allowed. `code` is stable; programs may depend on it.
`status` is an HTTP status, `grpc` the name of a gRPC status code; no framework is imported.

`quoted` and `listed` put what a client sent into a message: bounded in time, depth and length for any value.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar

# The most problems of one body that an error message lists.
MOST_PROBLEMS = 10
_LENGTH = 80
# repr() walks all of a value before it is cut: seconds for megabytes of lists, RecursionError for 1,000 nested ones.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _LENGTH


class ServingError(Exception):
    """An error that a caller sees, with the same message and code over REST, V2 and gRPC."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    grpc: ClassVar[str] = "INTERNAL"
    retry_after_s: ClassVar[int | None] = None


class InvalidInput(ServingError):
    """The body or a tensor breaks the contract."""

    status, code, grpc = 422, "invalid_input", "INVALID_ARGUMENT"


class NotExplainable(ServingError):
    """The predictions of this model cannot be explained here."""

    status, code, grpc = 422, "not_explainable", "FAILED_PRECONDITION"


class UnknownKey(ServingError):
    """The feature store has no row for the key."""

    status, code, grpc = 404, "unknown_key", "NOT_FOUND"


class UnknownModel(ServingError):
    """No such model or version is served here."""

    status, code, grpc = 404, "unknown_model", "NOT_FOUND"


class NotFound(ServingError):
    """No such route."""

    status, code, grpc = 404, "not_found", "UNIMPLEMENTED"


class MethodNotAllowed(ServingError):
    """The route does not answer this HTTP method."""

    status, code, grpc = 405, "method_not_allowed", "UNIMPLEMENTED"


class BadRequest(ServingError):
    """The bytes are not a well-formed HTTP request."""

    status, code, grpc = 400, "bad_request", "INVALID_ARGUMENT"


class RequestTimeout(ServingError):
    """The request's body did not arrive in time."""

    status, code, grpc = 408, "request_timeout", "DEADLINE_EXCEEDED"


class UnsupportedEncoding(ServingError):
    """The body is compressed; this service unpacks nothing."""

    status, code, grpc = 415, "unsupported_encoding", "UNIMPLEMENTED"


class HeadersTooLarge(ServingError):
    """The request line, the headers or their number are beyond the limit."""

    status, code, grpc = 431, "headers_too_large", "RESOURCE_EXHAUSTED"


class ClientGone(ServingError):
    """The caller left before its answer was there: an outcome that is counted, and never sent."""

    status, code, grpc = 499, "client_gone", "CANCELLED"


class TooLarge(ServingError):
    """The body has too many bytes, or the batch too many rows."""

    status, code, grpc = 413, "too_large", "RESOURCE_EXHAUSTED"


class Forbidden(ServingError):
    """The model repository API is locked."""

    status, code, grpc = 403, "forbidden", "PERMISSION_DENIED"


class Unauthorized(ServingError):
    """A bearer token is required, and none was sent or it is wrong."""

    status, code, grpc = 401, "unauthorized", "UNAUTHENTICATED"


class StoreUnavailable(ServingError):
    """The feature store is down or slow."""

    status, code, grpc, retry_after_s = 503, "store_unavailable", "UNAVAILABLE", 1


class Overloaded(ServingError):
    """More requests are in flight than allowed."""

    status, code, grpc, retry_after_s = 503, "overloaded", "RESOURCE_EXHAUSTED", 1


class NotReady(ServingError):
    """The model is still loading, or the server is draining."""

    status, code, grpc, retry_after_s = 503, "not_ready", "UNAVAILABLE", 1


class DeadlineExceeded(ServingError):
    """The request has no result before its deadline."""

    status, code, grpc = 504, "deadline_exceeded", "DEADLINE_EXCEEDED"


class Internal(ServingError):
    """Anything else; the detail is logged and never returned."""


class StartupError(Exception):
    """The process must not start."""


class BundleError(StartupError):
    """A file of the bundle is missing, altered or unreadable."""


class ContractMismatch(StartupError):
    """Bundle or store were made for another contract."""


class StoreError(StartupError):
    """The feature store cannot be opened, or a row cannot be loaded."""


class RecordsError(StartupError):
    """The prediction records cannot be written or read as asked."""


def quoted(value: Any) -> str:
    """Return the repr of a value, at most 80 characters long; `...` replaces what is left out."""
    if isinstance(value, bytes):
        return repr(value[:_LENGTH])[:_LENGTH]  # reprlib would write all of it
    return _REPR.repr(value)[:_LENGTH]


def listed(problems: list[str], total: int) -> str:
    """Join the first problems of a body and add the number of the others, so that the message stays short."""
    return "; ".join(problems) + (f"; and {total - len(problems)} more" if total > len(problems) else "")
