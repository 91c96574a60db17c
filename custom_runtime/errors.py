"""Everything that can go wrong while serving, as one tree.

    ServingError
    |-- InvalidInput          422  invalid_input        the caller's body or tensor breaks the contract
    |-- UnknownCustomer       404  unknown_customer     the feature store has no row, and the policy is `error`
    |-- UnknownModel          404  unknown_model        no such model or version is served here
    |-- NotFound              404  not_found            no such route
    |-- MethodNotAllowed      405  method_not_allowed   the route exists, the method does not
    |-- TooLarge              413  too_large            body bytes or batch rows beyond the limit
    |-- Forbidden             403  forbidden            the model repository API is locked
    |-- Unauthorized          401  unauthorized         a bearer token is wanted
    |-- StoreUnavailable      503  store_unavailable    the feature store is down or slow, and the policy is `error`
    |-- Overloaded            503  overloaded           more requests in flight than allowed: shed at once
    |-- NotReady              503  not_ready            the model is still loading, or is draining
    |-- DeadlineExceeded      504  deadline_exceeded    the request's time is over
    `-- Internal              500  internal             anything else; no detail leaves the process

    StartupError                                        the process must not start: exit code 1, one line
    |-- BundleError                                     a file of the bundle is missing, altered or unreadable
    |-- ContractMismatch                                bundle or store were made for another contract
    `-- StoreError                                      the feature store cannot be opened or loaded

A message says what happened, which value was received and what is allowed; `code` is stable, for programs.
The tree knows no framework: `status` is an HTTP status, `grpc` the name of a gRPC status code.

What a client sent, shown in an error message: bounded in time, depth and length, whatever it is.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar


class ServingError(Exception):
    """An outcome that a caller sees, the same over REST, V2 and gRPC."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    grpc: ClassVar[str] = "INTERNAL"
    retry_after_s: ClassVar[int | None] = None


class InvalidInput(ServingError):
    """The body or a tensor breaks the contract."""

    status, code, grpc = 422, "invalid_input", "INVALID_ARGUMENT"


class UnknownCustomer(ServingError):
    """The feature store has no row for the customer."""

    status, code, grpc = 404, "unknown_customer", "NOT_FOUND"


class UnknownModel(ServingError):
    """No such model or version is served here."""

    status, code, grpc = 404, "unknown_model", "NOT_FOUND"


class NotFound(ServingError):
    """No such route."""

    status, code, grpc = 404, "not_found", "UNIMPLEMENTED"


class MethodNotAllowed(ServingError):
    """The route does not answer this HTTP method."""

    status, code, grpc = 405, "method_not_allowed", "UNIMPLEMENTED"


class TooLarge(ServingError):
    """The body has too many bytes, or the batch too many rows."""

    status, code, grpc = 413, "too_large", "RESOURCE_EXHAUSTED"


class Forbidden(ServingError):
    """The model repository API is locked."""

    status, code, grpc = 403, "forbidden", "PERMISSION_DENIED"


class Unauthorized(ServingError):
    """A bearer token is wanted and was not given, or is wrong."""

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
    """The request's time is over."""

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


# A body has at most this many of its problems explained.
MOST_PROBLEMS = 10
_LENGTH = 80
# repr() walks all of a value before it is cut: seconds for megabytes of lists, RecursionError for 1,000 nested ones.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _LENGTH


def quoted(value: Any) -> str:
    """Return a value as Python writes it, in at most 80 characters; what is left out is `...`."""
    if isinstance(value, bytes):
        return repr(value[:_LENGTH])[:_LENGTH]  # reprlib would write all of it
    return _REPR.repr(value)[:_LENGTH]


def listed(problems: list[str], total: int) -> str:
    """Join the first problems of a body, and tell how many more it has: an answer is not longer than its question."""
    return "; ".join(problems) + (f"; and {total - len(problems)} more" if total > len(problems) else "")
