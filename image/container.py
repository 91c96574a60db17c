"""Runs one container with the image's own command and user, on this machine's loopback interface."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from handoff.errors import ImageError
from image.build import Buildah
from local_seldon.ports import free_ports

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A ready container: its URL, the time until it was ready, and its process."""

    url: str
    ready_s: float
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Send SIGTERM to the container's own first process, as a kubelet does, and return its exit code."""
        os.kill(_container_process(self.process.pid), signal.SIGTERM)
        return self.process.wait(STOP_LIMIT_S)


@contextmanager
def working_container(buildah: Buildah, image: str) -> Iterator[str]:
    """Make a container of the image, and remove it at the end of the block."""
    container = buildah.run("from", "--pull-never", image)
    try:
        yield container
    finally:
        buildah.run("rm", container)


@contextmanager
def running(
    buildah: Buildah, image: str, *, model: str, environment: Mapping[str, str], volumes: Mapping[Path, str]
) -> Iterator[Running]:
    """Run the image's own command until the block ends; volumes: directory here -> directory in the container.

    Raises ImageError, with the container's log, when the model is not ready within READY_LIMIT_S.
    """
    configured = buildah.configuration(image)
    command = [*(configured.get("Entrypoint") or []), *(configured.get("Cmd") or [])]
    http_port, grpc_port, metrics_port = free_ports(3)
    ports = {"HTTP": http_port, "GRPC": grpc_port, "METRICS": metrics_port}
    given = {"MLSERVER_HOST": "127.0.0.1", **{f"MLSERVER_{name}_PORT": str(port) for name, port in ports.items()}}
    options = [word for name, value in (given | dict(environment)).items() for word in ("--env", f"{name}={value}")]
    for here, there in volumes.items():
        options += ["--volume", f"{here.resolve()}:{there}"]
    with working_container(buildah, image) as container:
        started = time.monotonic()
        process = subprocess.Popen(
            buildah.command("run", "--isolation", "chroot", *options, container, "--", *command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{http_port}"
            _wait(f"{url}/v2/models/{model}/ready", process)
            yield Running(url, time.monotonic() - started, process)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _wait(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ImageError(f"the container ended with {process.returncode}: {process.communicate()[0][-2000:]}")
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return
        time.sleep(POLL_S)
    raise ImageError(f"{url} did not answer 200 within {READY_LIMIT_S:g} s")


def _container_process(pid: int) -> int:
    """Return the container's first process: the last descendant of buildah's. Any thread of a Go program may fork."""
    while children := [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]:
        pid = children[0]
    return pid


def _children(task: Path) -> list[int]:
    return [int(child) for child in (task / "children").read_text().split()]
