"""Where a load test sends its requests: a base URL with optional path prefix, TLS and extra headers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.errors import TargetError, UsageError

TLS_SCHEMES = {"http": False, "https": True, "grpc": False, "grpcs": True}


@dataclass(frozen=True, slots=True)
class Target:
    """A server, or a gateway in front of one. `prefix` starts with a slash, or is empty."""

    host: str
    port: int
    tls: bool
    prefix: str
    headers: tuple[tuple[str, str], ...] = ()
    verify: bool = True

    @property
    def authority(self) -> str:
        """The Host header; an explicit `Host` among the headers wins."""
        for name, value in self.headers:
            if name.lower() == "host":
                return value
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def connect(self, *, alpn: str, timeout_s: float) -> socket.socket:
        """Return a connected non-blocking socket, TLS done. Raises TargetError."""
        try:
            plain = socket.create_connection((self.host, self.port), timeout=timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected = self._secure(plain, alpn) if self.tls else plain
        except OSError as error:
            raise TargetError(f"cannot connect to {self.host}:{self.port}: {error}") from error
        connected.setblocking(False)
        return connected

    def _secure(self, plain: socket.socket, alpn: str) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        return context.wrap_socket(plain, server_hostname=self.host)


def parse_target(url: str, headers: Sequence[str] = (), *, verify: bool = True) -> Target:
    """Read a base URL and "Name: value" headers. Raises UsageError naming what is wrong."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in TLS_SCHEMES:
        raise UsageError(f"the URL {url!r} has scheme {parts.scheme!r}; allowed: {', '.join(TLS_SCHEMES)}")
    try:
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the URL {url!r} has no valid port: {error}") from error
    if not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"the URL {url!r} is no base URL; give scheme://host[:port][/prefix]")
    tls = TLS_SCHEMES[parts.scheme]
    return Target(
        host=parts.hostname,
        port=port or (443 if tls else 80),
        tls=tls,
        prefix=parts.path.rstrip("/"),
        headers=tuple(_parse_header(header) for header in headers),
        verify=verify,
    )


def _parse_header(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not name.strip() or "\n" in header or "\r" in header:
        raise UsageError(f"the header {header!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()
