"""Builds images with buildah and debootstrap, where no registry can be reached.

`make_base` makes a base image of Debian packages (Python, certificates, a shell). `Buildah` runs the program with a
storage of its own, so that a test's images do not appear among the machine's images.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handoff.errors import ImageError

SUITE = "bookworm"
BASE = f"localhost/python-base:{SUITE}"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
# What a slim image does not contain: downloaded packages, indexes, manuals, translations.
UNWANTED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
)
INSTALL = "apt-get install buildah debootstrap"
# Where Debian keeps its certificate authorities, on this machine as in the base.
CERTIFICATES = Path("/etc/ssl/certs")
AUTHORITIES = CERTIFICATES / "ca-certificates.crt"
# How this machine reaches its package index, where that is not the default.
INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")


def make_base(buildah: Buildah) -> str:
    """Make the base where the storage has none (about a minute), and return its name. Raises ImageError."""
    if buildah.has_image(BASE):
        return BASE
    with tempfile.TemporaryDirectory(prefix="python-base-") as folder:
        root = Path(folder) / "root"
        _debootstrap(root)
        for unwanted in UNWANTED:
            shutil.rmtree(root / unwanted, ignore_errors=True)
        container = buildah.run("from", "scratch")
        try:
            buildah.run("add", "--quiet", container, str(root), "/")
            buildah.run("commit", "--quiet", container, BASE)
        finally:
            buildah.run("rm", container)
    return BASE


def _debootstrap(root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    except FileNotFoundError as error:
        raise ImageError("debootstrap is not installed; run: apt-get install debootstrap") from error
    except subprocess.CalledProcessError as error:
        raise ImageError(f"debootstrap failed ({error.returncode}): {error.stdout[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise ImageError("debootstrap took longer than 600 s; is Debian's archive reachable?") from error


@dataclass(frozen=True, slots=True)
class Buildah:
    """Runs buildah with a storage directory. Every method raises ImageError with buildah's own message."""

    storage: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of one buildah call."""
        root = self.storage.resolve()
        return ["buildah", "--root", str(root / "storage"), "--runroot", str(root / "run"), *arguments]

    def run(self, *arguments: str, timeout_s: float = 900.0) -> str:
        """Call buildah and return what it printed."""
        try:
            done = subprocess.run(
                self.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout_s
            )
        except FileNotFoundError as error:
            raise ImageError(f"buildah is not installed; run: {INSTALL}") from error
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"buildah {arguments[0]} took longer than {timeout_s:g} s") from error
        if done.returncode != 0:
            raise ImageError(
                f"buildah {arguments[0]} failed ({done.returncode}): {(done.stderr + done.stdout)[-2000:]}"
            )
        return done.stdout.strip()

    def release(self) -> None:
        """Unmount the overlay that buildah keeps mounted between calls, so that the folder can be deleted."""
        overlay = self.storage.resolve() / "storage" / "overlay"
        if os.path.ismount(overlay):
            subprocess.run(["umount", str(overlay)], capture_output=True, check=False)

    def has_image(self, name: str) -> bool:
        """Whether the storage holds the image."""
        return name in self.run("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def configuration(self, image: str) -> dict[str, Any]:
        """Return the image's configuration: User, Env, Entrypoint, Cmd, Healthcheck, Labels..."""
        inspected = json.loads(self.run("inspect", "--type", "image", image))
        docker: dict[str, Any] = inspected["Docker"]["config"]
        return docker

    def build(self, context: Path, image: str, *, base: str, arguments: Mapping[str, str]) -> float:
        """Build the Dockerfile of `context` on `base`, and return how long that took, in seconds.

        chroot isolation needs no user namespaces and shares the machine's network; the machine's certificate
        authorities are mounted into the build and are not copied into the image.
        """
        build_values = {"BASE_IMAGE": base, **arguments}
        build_values |= {name: os.environ[name] for name in INDEX_VARIABLES if name in os.environ}
        volume = []
        if AUTHORITIES.exists():
            build_values |= {"PIP_CERT": str(AUTHORITIES), "SSL_CERT_FILE": str(AUTHORITIES)}
            volume = ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        build_args = [word for name, value in build_values.items() for word in ("--build-arg", f"{name}={value}")]
        started = time.monotonic()
        # Docker's format, because OCI's has no HEALTHCHECK.
        options = ["--isolation", "chroot", "--layers", "--format", "docker", "--pull-never", *volume, *build_args]
        self.run("build", *options, "--tag", image, str(context))
        return time.monotonic() - started


def require_programs() -> None:
    """Raise ImageError, with what to install or how to run, when an image cannot be built on this machine."""
    missing = [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]
    if missing:
        raise ImageError(f"{' and '.join(missing)} not installed; run: {INSTALL}")
    if os.geteuid() != 0:
        raise ImageError("debootstrap and chroot need root; run the same command with sudo")
