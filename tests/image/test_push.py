"""`make push` against a registry of the test's own: what is built here can be pulled there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.programs import GUARD_S, ROOT, eventually, free_port, program

pytestmark = [pytest.mark.slow, pytest.mark.integration]
LIMIT_S = 120


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Run a registry without TLS on loopback; yields HOST:PORT."""
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "registry.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
                "http": {"addr": address},
            }
        )
    )
    command = [program("docker-registry"), "serve", str(config)]
    with (tmp_path / "registry.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: answers(f"http://{address}/v2/"), what="the registry does not answer")
            yield address
        finally:
            process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=GUARD_S).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def own_storage(tmp_path: Path) -> dict[str, str]:
    """The environment in which buildah keeps images below tmp_path."""
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "images"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    return {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}


def test_make_push_puts_the_image_where_a_cluster_can_pull_it(registry: str, own_storage: dict[str, str]) -> None:
    buildah = program("buildah")
    image = f"{registry}/churn-serving:1"

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=own_storage, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = run(buildah, "from", "scratch")
    run(buildah, "config", "--label", "org.opencontainers.image.version=test", container)
    run(buildah, "commit", container, image)
    run("make", "--silent", "push", f"IMAGE={image}", f"BUILDER={buildah}", "PUSH_OPTIONS=--tls-verify=false")
    assert httpx.get(f"http://{registry}/v2/churn-serving/tags/list", timeout=GUARD_S).json()["tags"] == ["1"]
    run(buildah, "rmi", "--force", image)
    run(buildah, "pull", "--tls-verify=false", image)
    assert image in run(buildah, "images", "--format", "{{.Name}}:{{.Tag}}").splitlines()
