"""The target of a load test and its requests: a base URL, and one body for each key in each protocol.

Bodies are bytes, created before the measurement starts.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from benchmarks.errors import TargetError, UsageError
from custom_runtime.active import CONTRACT

TLS_SCHEMES = {"http": False, "https": True, "grpc": False, "grpcs": True}
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"


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

    def connect(self, *, timeout_s: float) -> socket.socket:
        """Return a connected non-blocking socket, TLS done. Raises TargetError."""
        try:
            plain = socket.create_connection((self.host, self.port), timeout=timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected = self._secure(plain) if self.tls else plain
        except OSError as error:
            reason = error.strerror or error
            raise TargetError(f"cannot connect to {self.host}:{self.port}: {reason}") from error
        connected.setblocking(False)
        return connected

    def _secure(self, plain: socket.socket) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
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
        raise UsageError(f"the URL {url!r} is not a base URL; give scheme://host[:port][/prefix]")
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


class Protocol(StrEnum):
    """The protocol of the requests."""

    PREDICT = "predict"
    V2_REST = "v2-rest"
    V2_GRPC = "v2-grpc"


def parse_keys(text: str) -> range:
    """Read "1-7043" or "42" as a range of keys. Raises UsageError."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UsageError(f"keys {text!r} are no range such as 1-7043")
    keys = range(int(first), int(last if dash else first) + 1)
    if not keys:
        raise UsageError(f"keys {text!r} are none: {last} is smaller than {first}")
    return keys


def path_of(protocol: Protocol, model: str) -> str:
    """Return the URL path (gRPC: the method) that is asked, without the target's prefix."""
    return {
        Protocol.PREDICT: "/predict",
        Protocol.V2_REST: f"/v2/models/{model}/infer",
        Protocol.V2_GRPC: GRPC_PATH,
    }[protocol]


def key_bodies(protocol: Protocol, model: str, keys: Sequence[int]) -> list[bytes]:
    """Return one request body per key, by the contract's key alone: the server looks the features up.

    Where the key is text, it is the number's digits. Raises UsageError where the contract has no key.
    """
    field = CONTRACT.key_field
    if field is None:
        raise UsageError(f"the contract {CONTRACT.name!r} has no key; the load test asks by key")
    values: list[Any] = [str(key) for key in keys] if field.is_text else list(keys)
    if protocol is Protocol.PREDICT:
        return [json.dumps({field.name: value}).encode() for value in values]
    if protocol is Protocol.V2_REST:
        return [v2_rest_body(field.name, field.datatype, [value]) for value in values]
    return [v2_grpc_message(model, field.name, field.datatype, [value]) for value in values]


def v2_rest_body(name: str, datatype: str, row: Sequence[Any], *, rows: int = 1) -> bytes:
    """Return a V2 REST request of one input of shape [rows, len(row) / rows]."""
    tensor = {"name": name, "shape": [rows, len(row) // rows], "datatype": datatype, "data": list(row)}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def v2_grpc_message(model: str, name: str, datatype: str, row: Sequence[Any]) -> bytes:
    """Return a ModelInferRequest of one input of shape [1, len(row)], INT64, BYTES or FP32."""
    from tritonclient.grpc import service_pb2  # generated code, which only gRPC needs

    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=[1, len(row)])
    if datatype == "INT64":
        tensor.contents.int64_contents.extend(int(value) for value in row)
    elif datatype == "BYTES":
        tensor.contents.bytes_contents.extend(value.encode() for value in row)
    else:
        tensor.contents.fp32_contents.extend(row)
    return bytes(request.SerializeToString())
