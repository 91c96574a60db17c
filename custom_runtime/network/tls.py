"""TLS: the server certificate of REST and gRPC, and the CA that must have signed the clients' certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from custom_runtime.errors import StartupError
from custom_runtime.settings import ServingSettings


@dataclass(frozen=True)
class Certificates:
    """PEM files that were read and match; client_ca: clients must present a certificate that it signed."""

    cert: Path
    key: Path
    client_ca: Path | None

    def for_rest(self) -> dict[str, Any]:
        """Return uvicorn's TLS settings."""
        wanted = {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED} if self.client_ca else {}
        return {"ssl_certfile": str(self.cert), "ssl_keyfile": str(self.key), **wanted}

    def for_http2(self) -> ssl.SSLContext:
        """Return the context of our own HTTP/2 port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        return context

    def for_grpc(self) -> grpc.ServerCredentials:
        """Return the credentials of the gRPC server."""
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


def read_certificates(settings: ServingSettings) -> Certificates | None:
    """Return the certificates of the settings, None where TLS is off. Raises StartupError naming the file."""
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise StartupError("TLS needs both SERVING_TLS_CERT and SERVING_TLS_KEY; only one of them is set, or neither")
    for name, file in (("CERT", cert), ("KEY", key), ("CLIENT_CA", client_ca)):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise StartupError(f"SERVING_TLS_{name} {file} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without this, OpenSSL would ask for a password at the terminal.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise StartupError(
            f"SERVING_TLS_CERT {cert} and SERVING_TLS_KEY {key} do not match ({_reason(error)}); "
            "allowed: a PEM chain, the server's certificate first, and its key without a password"
        ) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise StartupError(
                f"SERVING_TLS_CLIENT_CA {client_ca} is not a PEM certificate ({_reason(error)})"
            ) from None
    return Certificates(cert, key, client_ca)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
