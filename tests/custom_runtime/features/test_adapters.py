import subprocess
import sys
from pathlib import Path

import pytest

from custom_runtime.errors import StoreError
from custom_runtime.features.adapters import open_store
from custom_runtime.features.store import sqlite_path, without_credentials


@pytest.mark.parametrize("url", ["postgres://db", "features.db", "", "sqlite+x:///a.db", "redis-cluster://h"])
def test_an_unknown_scheme_lists_what_is_allowed(url: str) -> None:
    with pytest.raises(StoreError, match="unknown scheme") as refused:
        open_store(url)
    for allowed in ("sqlite:///", "redis://", "rediss://", "redis+cluster://", "rediss+cluster://", "memory://"):
        assert allowed in str(refused.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/features.db", "var/features.db"),
        ("sqlite:////data/features.db", "/data/features.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_three_slashes_are_relative_four_absolute(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize("url", ["sqlite://features.db", "sqlite://", "sqlite:///", "sqlite:///a.db?mode=rw"])
def test_a_sqlite_url_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="names no file"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@host:6379/0",
        "rediss://:hunter2@host",
        "redis://:a/hunter2@host",
        "redis+cluster://:hunter2@h",
    ],
)
def test_credentials_are_cut_from_what_is_logged(url: str) -> None:
    assert "hunter2" not in without_credentials(url)
    assert without_credentials(url).startswith(url.partition("://")[0])


async def test_credentials_never_stand_in_an_error() -> None:
    for url in ("redis://user:hunter2@127.0.0.1:1/0", "redis://:hun/hunter2@127.0.0.1:1", "redis://:hunter2@h:port"):
        with pytest.raises(StoreError) as refused:
            await open_store(url).open()
        assert "hunter2" not in str(refused.value)


def test_sqlite_needs_no_redis_and_redis_no_sqlite() -> None:
    check = (
        "import sys; from custom_runtime.features.adapters import open_store; open_store(sys.argv[1]); "
        "print(*(name for name in ('redis', 'sqlite3') if name in sys.modules))"
    )
    for url, imported in (("sqlite:///a.db", "sqlite3"), ("redis://127.0.0.1:1", "redis"), ("memory://", "")):
        done = subprocess.run([sys.executable, "-c", check, url], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == imported
