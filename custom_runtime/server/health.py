"""The health check of a container: `python -m custom_runtime.server.health` exits with 0 when the service is ready.

It asks the REST port of this container over loopback, with TLS where SERVING_TLS_CERT is set. Where
SERVING_TLS_CLIENT_CA is set it presents the service's own certificate, which that authority must then have signed for
clients too. It runs every few seconds, so it imports the standard library alone and reads the variables itself.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

HOST = "127.0.0.1"
PATH = "/v2/health/ready"
TIMEOUT_S = 2.0


def main() -> int:
    """Return 0 when the service is ready, else 1 after one line on standard error."""
    try:
        status = ready_status(os.environ)
    except (OSError, http.client.HTTPException) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    if status != http.client.OK:
        print(f"not ready: {PATH} answered {status}", file=sys.stderr)
        return 1
    return 0


def ready_status(environment: Mapping[str, str]) -> int:
    """Return the HTTP status of the readiness path. Raises OSError or HTTPException where nothing answers."""
    port = int(environment.get("MLSERVER_HTTP_PORT") or 8080)
    cert, key = environment.get("SERVING_TLS_CERT"), environment.get("SERVING_TLS_KEY")
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    if cert:
        # Nothing secret is sent, and the certificate names the service, not 127.0.0.1: it is not verified.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if environment.get("SERVING_TLS_CLIENT_CA"):
            context.load_cert_chain(cert, key)
        connection = http.client.HTTPSConnection(HOST, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
