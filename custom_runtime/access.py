"""Bearer tokens: where they come from, and whether a request carries one."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from custom_runtime.errors import StartupError, Unauthorized
from custom_runtime.settings import ServingSettings

_SCHEME = b"bearer "
# 16 characters of base64 are 96 bits: out of reach for guessing over a network.
_SHORTEST = 16


class Tokens:
    """The tokens that are let in; several, so that a new one can be handed out before the old one is taken back."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # Digests have one length, so the comparison's time tells nothing, not even a token's length.
        self._digests = [_digest(token.encode()) for token in tokens]

    def check(self, authorization: bytes | None) -> None:
        """Raise Unauthorized unless an Authorization header carries one of the tokens."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthorized("no bearer token was sent; allowed: the header `Authorization: Bearer <token>`")
        given = _digest(authorization[len(_SCHEME) :].strip())
        if not any([hmac.compare_digest(given, digest) for digest in self._digests]):  # noqa: C419  (never cut short)
            raise Unauthorized("the bearer token is not one of this server's")


def read_tokens(settings: ServingSettings) -> Tokens | None:
    """Return the tokens of the settings, None where none is set. Raises StartupError; no message shows a token."""
    if settings.token is not None and settings.token_file is not None:
        raise StartupError("CHURN_TOKEN and CHURN_TOKEN_FILE are both set; allowed: one of them")
    if settings.token is not None:
        return Tokens(_checked([settings.token.get_secret_value()], "CHURN_TOKEN"))
    if settings.token_file is None:
        return None
    try:
        lines = settings.token_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"CHURN_TOKEN_FILE {settings.token_file} cannot be read: {_cause(error)}") from None
    return Tokens(_checked([line.strip() for line in lines if line.strip()], f"CHURN_TOKEN_FILE {settings.token_file}"))


def _checked(tokens: list[str], place: str) -> list[str]:
    if not tokens:
        raise StartupError(f"{place} has no token; allowed: one a line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
            raise StartupError(
                f"{place}: token {number} is not allowed; allowed: {_SHORTEST} or more printable ASCII characters "
                "without spaces, as `openssl rand -base64 24` makes them"
            )
    return tokens


def _cause(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8 text"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
