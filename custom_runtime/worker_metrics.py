"""The metrics endpoint that adds the workers up.

Workers write their metrics to memory-mapped files (prometheus_client's multiprocess mode), which survive them.
"""

from __future__ import annotations

import threading
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from mlserver.settings import Settings
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve_metrics(settings: Settings, metrics: str) -> WSGIServer:
    """Serve the sum of what the workers wrote to the directory `metrics`, on a thread, until `shutdown`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=metrics)  # type: ignore[no-untyped-call]
    server = make_server(settings.host, settings.metrics_port, make_wsgi_app(registry), _Threaded, _Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
