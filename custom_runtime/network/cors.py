"""Cross-origin headers on every answer, as MLServer's `cors_settings` allow; its own middleware answers preflights."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

Pairs = tuple[tuple[bytes, bytes], ...]


class CorsPolicy:
    """Which origins may read an answer. A browser asks before a POST of JSON, and looks again at the answer."""

    def __init__(self, settings: Any) -> None:
        """Take MLServer's CORSSettings."""
        self._origins = tuple(settings.allow_origins or ())
        self._pattern = re.compile(settings.allow_origin_regex) if settings.allow_origin_regex else None
        self._credentials: Pairs = (
            ((b"access-control-allow-credentials", b"true"),) if settings.allow_credentials else ()
        )
        self.headers_for = lru_cache(maxsize=256)(self._headers_for)

    def _headers_for(self, origin: bytes) -> Pairs:
        """Return the headers of an answer to this origin; none where it may not read it."""
        text = origin.decode("latin-1")
        if "*" in self._origins and not self._credentials:
            return ((b"access-control-allow-origin", b"*"),)
        if "*" in self._origins or text in self._origins or (self._pattern and self._pattern.fullmatch(text)):
            return ((b"access-control-allow-origin", origin), *self._credentials, (b"vary", b"Origin"))
        return ()


def read_cors(settings: Any) -> CorsPolicy | None:
    """Return the policy of MLServer's settings; None: no cross-origin access is configured."""
    return None if settings.cors_settings is None else CorsPolicy(settings.cors_settings)
