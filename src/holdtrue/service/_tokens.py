"""Tokens and what they allow."""

import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from holdtrue.errors import UsageError

SCOPES: tuple[str, ...] = ("read", "join", "admin")
"""Each allows what those before it allow: to look; to take part as a worker or a host; to change the job."""
_LEAST_CHARACTERS = 16


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One token for each scope. Never shown: its text form has none of them.

    Raises:
        UsageError: one is missing, short, or equal to another.
    """

    by_scope: Mapping[str, str]

    def __post_init__(self) -> None:
        texts = [self.by_scope.get(scope, "") for scope in SCOPES]
        if (
            set(self.by_scope) != set(SCOPES)
            or min(map(len, texts)) < _LEAST_CHARACTERS
            or len(set(texts)) != len(SCOPES)
            or not all(text.isascii() and text.isprintable() and " " not in text for text in texts)
        ):
            raise UsageError(
                f"the tokens are for the scopes {sorted(map(str, self.by_scope))}; there must be one for each of "
                f"{', '.join(SCOPES)}, of {_LEAST_CHARACTERS} or more characters, no two alike. Make them anew."
            )

    def scope_of(self, token: str) -> str | None:
        """The scope that a token has; None for one that is not known. Takes the same time for every token."""
        found = None
        given = token.encode(errors="replace")
        for scope in SCOPES:
            if hmac.compare_digest(given, self.by_scope[scope].encode()):
                found = scope
        return found

    def __repr__(self) -> str:
        return "Tokens(...)"


def allows(scope: str, needed: str) -> bool:
    """Whether a token of one scope may do what needs another.

    >>> allows("admin", "read"), allows("read", "join")
    (True, False)
    """
    return SCOPES.index(scope) >= SCOPES.index(needed)


def make_tokens() -> Tokens:
    """New tokens; they are as good as the system's random numbers."""
    return Tokens(by_scope={scope: secrets.token_urlsafe(32) for scope in SCOPES})


def read_tokens(path: Path) -> Tokens:
    """The tokens in a JSON file with a text for each scope.

    Raises:
        UsageError: it cannot be read, others may read it, or it holds no tokens.
    """
    try:
        found = os.stat(path)
        if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.getuid():
            raise UsageError(
                f"the token file {path} has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}; "
                f"only its owner, you, may read it. Make it anew with mode 0600."
            )
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the token file {path} cannot be read: {type(error).__name__}. Make it anew."
        ) from None
    if not isinstance(values, dict) or not all(isinstance(text, str) for text in values.values()):
        raise UsageError(
            f"the token file {path} is no JSON object of texts, one for each scope. Make it anew."
        )
    return Tokens(by_scope=values)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
