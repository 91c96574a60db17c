"""A base image from Debian's own packages, for where no registry can be reached: Python, certificates and a shell."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from handoff.errors import ImageError
from handoff.image.buildah import Buildah

SUITE = "bookworm"
BASE = f"localhost/python-base:{SUITE}"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
# What a slim image does not carry: downloaded packages, indexes, manuals, translations.
UNWANTED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
)


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
