"""The method table with an observer around it: spans and the access log, the same for both engines.

Only where one of them is on. Health is not observed: probes would be most of what is seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from custom_runtime.errors import ClientGone, DeadlineExceeded, Internal, ServingError
from custom_runtime.grpc.method import Begin, CallInfo, Method, MethodTable, Pending, Stream, Unary
from custom_runtime.network.observing import ObservedRequest, RequestObserver


class ObservedMethods:
    """A method table like the one it is made of."""

    def __init__(self, methods: MethodTable, observer: RequestObserver) -> None:
        self._methods = methods
        self.by_path = {
            path: method if method.is_open else _observe(method, observer) for path, method in methods.by_path.items()
        }

    def close_streams(self) -> None:
        """See MethodTable."""
        self._methods.close_streams()

    def close(self) -> None:
        """See MethodTable."""
        self._methods.close()


class _RefusedPending:
    """Work that ended with an error before it began: its answer names the trace, too."""

    def __init__(self, error: ServingError, traceparent: str) -> None:
        self._error = error
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.future.set_result(None)
        self.headers: Sequence[tuple[bytes, bytes]] = _headers(traceparent)

    def finish(self) -> bytes:
        raise self._error

    def leave(self, *, is_late: bool) -> None:
        pass  # it is counted


class _ObservedPending:
    """Work under way that ends its observation."""

    def __init__(self, pending: Pending, observed: ObservedRequest, received_bytes: int) -> None:
        self._pending = pending
        self._observed = observed
        self._received_bytes = received_bytes
        self.future = pending.future
        self.headers: Sequence[tuple[bytes, bytes]] = _headers(observed.traceparent)

    def finish(self) -> bytes:
        try:
            content = self._pending.finish()
        except ServingError as error:
            self._end(error.status, code=error.code)
            raise
        self._end(200, sent_bytes=len(content))
        return content

    def leave(self, *, is_late: bool) -> None:
        self._pending.leave(is_late=is_late)
        outcome = DeadlineExceeded if is_late else ClientGone
        self._end(outcome.status, code=outcome.code)

    def _end(self, status: int, *, code: str = "", sent_bytes: int = 0) -> None:
        self._observed.end(status, code=code, received_bytes=self._received_bytes, sent_bytes=sent_bytes)


def _headers(traceparent: str) -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", traceparent.encode())] if traceparent else []


def _observe(method: Method, observer: RequestObserver) -> Method:
    path = method.path
    if method.begin is not None:
        method = method._replace(begin=_observed_begin(path, method.begin, observer))
    if method.unary is not None:
        method = method._replace(unary=_observed_unary(path, method.unary, observer))
    if method.stream is not None:
        method = method._replace(stream=_observed_stream(path, method.stream, observer))
    on_refused = method.on_refused

    def refused(error: ServingError) -> None:
        if on_refused is not None:
            on_refused(error)
        observer.begin("grpc", "POST", path).end(error.status, code=error.code)

    return method._replace(on_refused=refused)


def _observed_begin(path: str, begin: Begin, observer: RequestObserver) -> Begin:
    def observed_begin(message: bytes, info: CallInfo) -> Pending:
        observed = _begin(path, info, observer)
        try:
            with observed.active():
                pending = begin(message, info)
        except ServingError as error:
            observed.end(error.status, code=error.code, received_bytes=len(message))
            return _RefusedPending(error, observed.traceparent)
        return _ObservedPending(pending, observed, len(message))

    return observed_begin


def _observed_unary(path: str, unary: Unary, observer: RequestObserver) -> Unary:
    async def observed_unary(message: bytes, info: CallInfo) -> bytes:
        observed, received_bytes = _begin(path, info, observer), len(message)
        try:
            with observed.active():
                content = await unary(message, info)
        except BaseException as error:
            _end_with(observed, error, info, received_bytes=received_bytes)
            raise
        observed.end(200, received_bytes=received_bytes, sent_bytes=len(content))
        return content

    return observed_unary


def _observed_stream(path: str, stream: Stream, observer: RequestObserver) -> Stream:
    async def observed_stream(messages: AsyncIterator[bytes], info: CallInfo) -> AsyncGenerator[bytes, None]:
        observed, received_bytes, sent_bytes = _begin(path, info, observer), 0, 0

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal received_bytes
            async for message in messages:
                received_bytes += len(message)
                yield message

        answers = stream(counted(), info)
        try:
            while True:
                with observed.active():  # a generator that is suspended must leave no context behind
                    answer: Any = await anext(answers, None)
                if answer is None:
                    break
                sent_bytes += len(answer)
                yield answer
        except BaseException as error:
            _end_with(observed, error, info, received_bytes=received_bytes, sent_bytes=sent_bytes)
            raise
        finally:
            await answers.aclose()
        observed.end(200, received_bytes=received_bytes, sent_bytes=sent_bytes)

    return observed_stream


def _begin(path: str, info: CallInfo, observer: RequestObserver) -> ObservedRequest:
    return observer.begin("grpc", "POST", path, request_id=info.request_id, traceparent=info.traceparent)


def _end_with(
    observed: ObservedRequest, error: BaseException, info: CallInfo, *, received_bytes: int, sent_bytes: int = 0
) -> None:
    """End with what stopped a call: an error of ours, its caller, or a defect."""
    if isinstance(error, ServingError):
        status, code = error.status, error.code
    elif isinstance(error, asyncio.CancelledError | GeneratorExit):
        outcome = DeadlineExceeded if info.is_late() else ClientGone
        status, code = outcome.status, outcome.code
    else:
        status, code = Internal.status, Internal.code
    observed.end(status, code=code, received_bytes=received_bytes, sent_bytes=sent_bytes)
