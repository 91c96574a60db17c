"""Our own gRPC engine: HTTP/2 connections over zttp, a sans-IO core. Only this module imports it.

What zttp decides (its limits cannot be set from Python): 128 calls at a time and a window of 64 KiB for requests,
header blocks of 64 KiB in at most 17 frames, and an end by ENHANCE_YOUR_CALM after 4,096 calls or 256 resets. So a
connection is asked to leave before that, in two steps that lose no call: a GOAWAY that still allows every call, with a
PING; and when the PING is answered, a GOAWAY that names the last one. What zttp leaves to its user is here: deadlines,
floods, slow readers, keepalive, drain.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import structlog
import zttp

from custom_runtime.errors import Overloaded, ServingError
from custom_runtime.grpc.framing import OK_TRAILERS, Headers, error_trailers, frame
from custom_runtime.grpc.http2_call import RESPONSE_HEADERS, Call, read_head

if TYPE_CHECKING:
    from custom_runtime.grpc.http2_listener import Server

log = structlog.get_logger()

# Well before zttp's own limits: calls that are already on their way must still fit.
MOST_CALLS, MOST_RESETS = 3_072, 96
NO_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 7, 11
_LAST_STREAM = 2**31 - 1
_LAST_PING, _ALIVE = b"goaway\0\0", b"alive\0\0\0"
GOAWAY_WAIT_S = 1.0  # the longest wait for the answer to the first step
PREFACE_S = 10.0  # a client sends it with its first packet
IDLE_S, PING_ANSWER_S = 60.0, 20.0
# A client that reads less than this of its waiting answers is too slow.
STALL_S, STALL_BYTES = 20.0, 20_480
# Frames that ask for an answer or bring nothing: this many at once, and this many more in each second.
MOST_CONTROL_FRAMES, CONTROL_FRAMES_PER_S = 1_000, 200
# A stream's answers wait when so many bytes are on their way to a client.
SEND_AHEAD_BYTES = 262_144

_NEW, _LEAVING, _LAST_CALLS = range(3)


class Http2Connection(asyncio.Protocol):
    """One connection: bytes -> calls, answers -> bytes. The server sweeps it several times a second."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.limit_bytes = server.limit_bytes
        self.deadline_s = server.deadline_s
        self._h2 = zttp.Connection(zttp.SERVER, zttp.HTTP2)
        self._transport: asyncio.Transport
        self._calls: dict[int, Call] = {}
        self._crowded: set[int] = set()
        self._is_dirty = False
        self._is_write_paused = False
        self._can_send = asyncio.Event()
        self._can_send.set()
        self._held_out = 0  # bytes of answers that the client has not taken
        self._parked: dict[int, zttp.Stream] = {}
        self._sent_bytes = self._swept_bytes = 0
        self._stalled_since: float | None = None
        self._phase = _NEW
        self._goaway_at = self._pinged_at = 0.0
        self._heard = True
        self._heard_at = self._made_at = time.monotonic()
        self._has_settings = False
        self._opened = self._resets = 0
        self._patience = float(MOST_CONTROL_FRAMES)

    # -- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless TLS agreed on something other than HTTP/2, or there are too many connections."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no instances of it
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        if not self.server.add(self):
            self._transport.abort()
            return
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        if self._transport.is_closing():
            return
        self._heard = True
        h2, calls = self._h2, self._calls
        try:
            h2.receive_data(data)
            while True:
                event = h2.next_event()
                kind = type(event)
                if kind is zttp.Data:
                    call = calls.get(event.stream_id)  # type: ignore[union-attr]
                    if call is not None:
                        self._guard(call, call.feed, event.data)  # type: ignore[union-attr]
                elif kind is zttp.EndOfMessage:
                    call = calls.get(event.stream_id)  # type: ignore[union-attr]
                    if call is not None:
                        self._guard(call, call.complete)
                elif kind is zttp.Request:
                    self._open(event)  # type: ignore[arg-type]
                elif event is zttp.NEED_DATA or event is zttp.CONNECTION_CLOSED:
                    break
                else:
                    self._control(event)
        except zttp.RemoteProtocolError as error:
            self._break(str(error))
            return
        self._flush()
        if self._held_out:
            self._settle()

    def eof_received(self) -> bool:
        """Close: no gRPC client closes its side and waits for answers on the other."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the calls of this connection."""
        self._can_send.set()
        for call in list(self._calls.values()):
            call.cancel()
        self._calls.clear()
        self.server.budget.give(self._held_out)
        self._held_out = 0
        self.server.remove(self)

    def pause_writing(self) -> None:
        """Take no more requests until the socket has room."""
        self._is_write_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on: the socket has room."""
        self._is_write_paused = False
        self._resume_reading()
        self._settle()

    # -- events ------------------------------------------------------------------------------------------------------

    def _open(self, event: zttp.Request) -> None:
        self._opened += 1
        stream_id = event.stream_id
        if self._phase == _LAST_CALLS:
            self._h2.stream(stream_id).reset(REFUSED_STREAM)
            return
        if self._opened == MOST_CALLS:
            self.announce_end()
        try:
            headers = cast("Headers", event.headers)  # a HeaderBlock is HTTP/1's
            head = read_head(
                event.target, headers, self.server.methods, self.server.tokens, most_bytes=self.server.metadata_bytes
            )
        except ServingError as error:
            self._refuse(stream_id, error)
            return
        call = Call(stream_id, head, self)
        self._calls[stream_id] = call
        if event.end_stream:
            self._guard(call, call.complete)

    def _control(self, event: Any) -> None:
        """Take a frame that is no part of a request: zttp has answered it; too many of them are a flood."""
        self._patience -= 1.0
        kind = type(event)
        if kind is zttp.RstStream:
            self._resets += 1
            call = self._calls.pop(event.stream_id, None)
            if call is not None:
                call.cancel()
            if self._resets == MOST_RESETS:
                self.announce_end()
        elif kind is zttp.Ping:
            if event.ack and event.data == _LAST_PING:
                self._last_calls()
        elif kind is zttp.Settings:
            self._has_settings = True
        elif kind is zttp.GoAway:
            self._phase = _LAST_CALLS
            self._leave_if_idle()
        if self._patience < 0:
            self._h2.close(ENHANCE_YOUR_CALM)
            self._break("too many control frames")

    def _guard(self, call: Call, take: Any, *arguments: Any) -> None:
        try:
            take(*arguments)
        except ServingError as error:
            call.refused(error)
            self.end(call, error)

    def _break(self, reason: str) -> None:
        """End a connection that breaks the protocol; the GOAWAY with the reason is queued already."""
        log.debug("grpc_connection_broken", reason=reason)
        self._flush()
        self._transport.close()

    # -- what calls need (http2_call.Connection) -----------------------------------------------------------------------

    def reserve(self, size: int) -> bool:
        """See http2_call.Connection."""
        return self.server.budget.take(size)

    def release(self, size: int) -> None:
        """See http2_call.Connection."""
        self.server.budget.give(size)

    def answer(self, call: Call, message: bytes) -> None:
        """See http2_call.Connection."""
        if call.is_over:
            return
        try:
            stream = self._h2.stream(call.id)
            if not self._hold_out(stream, len(message)):
                self.end(call, Overloaded("too many bytes of answers wait for clients that do not read; retry later"))
                return
            stream.send_response(200, call.headers)
            stream.send_data(frame(message))
            stream.end_message(OK_TRAILERS)
        except zttp.ProtocolError as error:
            log.debug("grpc_answer_lost", reason=str(error))
        self._drop(call)

    async def send(self, call: Call, message: bytes) -> None:
        """See http2_call.Connection."""
        while self._held_out > SEND_AHEAD_BYTES:
            self._can_send.clear()
            await self._can_send.wait()
        if call.is_over:
            raise asyncio.CancelledError
        stream = self._h2.stream(call.id)
        if not self._hold_out(stream, len(message)):
            raise Overloaded("too many bytes of answers wait for clients that do not read; retry later")
        if not call.is_started:
            call.is_started = True
            stream.send_response(200, call.headers)
        stream.send_data(frame(message))
        self._touch()

    def end(self, call: Call, error: ServingError | None) -> None:
        """See http2_call.Connection."""
        if call.is_over:
            return
        trailers = OK_TRAILERS if error is None else error_trailers(error)
        try:
            stream = self._h2.stream(call.id)
            if call.is_started:
                stream.end_message(trailers)
            else:
                stream.send_response(200, call.headers + trailers, True)
        except zttp.ProtocolError as lost:
            log.debug("grpc_answer_lost", reason=str(lost))
        self._drop(call)

    def crowd(self, call: Call, *, crowded: bool) -> None:
        """See http2_call.Connection."""
        if crowded:
            self._crowded.add(call.id)
            self._transport.pause_reading()
        else:
            self._crowded.discard(call.id)
            self._resume_reading()

    # -- sending -------------------------------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, error: ServingError) -> None:
        self._h2.stream(stream_id).send_response(200, RESPONSE_HEADERS + error_trailers(error), True)

    def _drop(self, call: Call) -> None:
        self._calls.pop(call.id, None)
        call.close()
        self._patience += 4.0  # an answer may be acknowledged by window updates
        self._touch()
        if self._phase == _LAST_CALLS:
            self._leave_if_idle()

    def _hold_out(self, stream: zttp.Stream, size: int) -> bool:
        """Account for an answer that cannot leave now; False: there is no room for it."""
        window = min(stream.send_window or 0, self._h2.send_window)
        if size < window and not self._is_write_paused:
            return True
        if not self.server.budget.take(size):
            return False
        self._held_out += size
        self._parked[stream.stream_id] = stream
        return True

    def _settle(self) -> None:
        """Give back what the client has taken meanwhile."""
        held = self._transport.get_write_buffer_size()
        for stream_id, stream in list(self._parked.items()):
            if stream.pending_bytes:
                held += stream.pending_bytes
            else:
                del self._parked[stream_id]
        if held < self._held_out:
            self.server.budget.give(self._held_out - held)
            self._held_out = held
        if self._held_out <= SEND_AHEAD_BYTES:
            self._can_send.set()
        self._leave_if_idle()

    def _touch(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            self.server.flush_soon(self)

    def flush(self) -> None:
        """Write what was put together in this turn of the event loop."""
        self._is_dirty = False
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._sent_bytes += len(data)
            self._transport.write(data)

    def _resume_reading(self) -> None:
        if not self._is_write_paused and not self._crowded and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- the end -------------------------------------------------------------------------------------------------------

    def announce_end(self) -> None:
        """First step: ask the client to open no more calls; those that are on their way are still answered."""
        if self._phase == _NEW and not self._transport.is_closing():
            self._phase = _LEAVING
            self._goaway_at = time.monotonic()
            self._h2.close(NO_ERROR, _LAST_STREAM)
            self._flush()
            self._ping(_LAST_PING)

    def _last_calls(self) -> None:
        """Second step: what was opened until now is answered, then the connection closes."""
        if self._phase == _LEAVING:
            self._phase = _LAST_CALLS
            self._h2.close(NO_ERROR)
            self._touch()
            self._leave_if_idle()

    def drain(self, *, end_streams: bool) -> None:
        """Send the first GOAWAY: the server ends. end_streams: also end the streams that clients leave open."""
        self.announce_end()
        if end_streams and self._phase == _LAST_CALLS:
            for call in list(self._calls.values()):
                call.close_inbox()

    def _leave_if_idle(self) -> None:
        if self._phase == _LAST_CALLS and not self._calls and not self._h2.has_pending_send():
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _ping(self, content: bytes) -> None:
        # A frame means the same wherever it stands; zttp sends no PING of its own.
        self._transport.write(b"\0\0\x08\x06\0\0\0\0\0" + content)

    # -- time ----------------------------------------------------------------------------------------------------------

    def sweep(self, now: float, elapsed_s: float) -> None:
        """Check what has taken too long; elapsed_s: since the last check."""
        self._patience = min(self._patience + CONTROL_FRAMES_PER_S * elapsed_s, MOST_CONTROL_FRAMES)
        for call in list(self._calls.values()):
            if not call.has_begun and now > call.expires:
                self._guard(call, call.expire)
        if self._held_out:
            self._settle()
        if not self._has_settings and now - self._made_at > PREFACE_S:
            self.abort()
        elif self._phase == _LEAVING and now - self._goaway_at > GOAWAY_WAIT_S:
            self._last_calls()
        elif self._is_stalled(now):
            log.info("grpc_slow_reader_left", held_bytes=self._held_out)
            self.abort()
        else:
            self._keep_alive(now)

    def _is_stalled(self, now: float) -> bool:
        if not self._held_out and not self._is_write_paused and not self._crowded:
            self._stalled_since = None
            return False
        taken = self._sent_bytes - self._transport.get_write_buffer_size()
        if self._stalled_since is None or taken - self._swept_bytes > STALL_BYTES:
            self._stalled_since, self._swept_bytes = now, taken
        return now - self._stalled_since > STALL_S

    def _keep_alive(self, now: float) -> None:
        if self._heard:
            self._heard, self._heard_at, self._pinged_at = False, now, 0.0
        elif self._pinged_at:
            if now - self._pinged_at > PING_ANSWER_S:
                self.abort()
        elif now - self._heard_at > IDLE_S:
            self._pinged_at = now
            self._ping(_ALIVE)
