"""API keys and their scopes. Keys are stored as SHA-256 digests and compared in constant time.

A key is 256 random bits, so its digest cannot be inverted by guessing, and no slow password hash is needed on every
request. A key allows exactly the scopes it lists; no scope includes another. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from service.errors import ConfigError, Forbidden

KEY_PREFIX = "utk_"
"""Prefix of every key, by which scanners for leaked secrets can find one."""
KEY_BYTES = 32

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
FORM = "NAME SCOPE[,SCOPE...] SHA256 [ITEMS_A_SECOND]"


class KeyScope(StrEnum):
    """What a key may be allowed to do."""

    READ = "read"
    REGISTER = "register"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One configured key.

    Attributes
    ----------
    name : identifies the key in logs and metrics
    digest : SHA-256 of the key
    items_per_second : rate limit of this key; None for the configured default
    """

    name: str
    scopes: frozenset[KeyScope]
    digest: bytes = field(repr=False)
    items_per_second: float | None = None

    def require(self, scope: KeyScope) -> None:
        """Refuse a key that lacks a scope.

        Raises
        ------
        Forbidden : the key lacks it
        """
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise Forbidden(f"key {self.name!r} has the scopes {has}, but this needs {scope}")


class ApiKeys:
    """The configured keys; with none, the service is open to everyone."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: Sequence[ApiKey] = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """The configured key that matches a presented secret, or None; takes constant time, found or not."""
        presented = digest_of(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key
        return found

    @classmethod
    def read(cls, inline: str, file: Path | None) -> ApiKeys:
        """Read the keys of a text (entries separated by line breaks or `;`) and of a file, together.

        Raises
        ------
        ConfigError : the text is not empty but holds no key, the file holds no key or cannot be read, an entry is
            malformed, or two keys share a name or a digest
        """
        keys = _parse(inline, "UNITOK_API_KEYS")
        if inline and not keys:
            raise ConfigError("UNITOK_API_KEYS: holds no key; without keys, leave the setting away")
        if file is not None:
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"API keys file {file}: {error}") from None
            found = _parse(text, str(file))
            if not found:
                raise ConfigError(f"API keys file {file}: holds no key; without keys, leave the setting away")
            keys += found
        names, digests = [key.name for key in keys], [key.digest for key in keys]
        for values, what in ((names, "name"), (digests, "digest")):
            for place, value in enumerate(values):
                if value in values[:place]:
                    raise ConfigError(f"API key {names[place]!r}: its {what} is already taken by another key")
        return cls(keys)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: the secret for its user, and the entry for the service's configuration."""

    secret: str = field(repr=False)
    entry: str


def new_key(name: str, scopes: Sequence[KeyScope], items_per_second: float | None = None) -> NewKey:
    """Make a key of 256 random bits.

    Raises
    ------
    ConfigError : the name, the scopes or the rate would not be accepted by `ApiKeys.read`
    """
    _require_name(name, "new key")
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    entry = " ".join([name, ",".join(dict.fromkeys(scopes)), digest_of(secret).hex()])
    if items_per_second is not None:
        entry += f" {items_per_second!s}".removesuffix(".0")
    _entry(entry, "new key")
    return NewKey(secret, entry)


def key_to_send(text: str, where: str) -> str:
    """Check a key that is to be sent in a header; surrounding whitespace, as in a mounted file, is removed.

    Raises
    ------
    ConfigError : it is empty, or not printable ASCII; the message does not repeat it
    """
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{where}: an API key is letters, digits and signs of ASCII, as `unitok keys new` prints it")
    return key


def digest_of(secret: str) -> bytes:
    """SHA-256 digest of a key, all that is stored of it."""
    return hashlib.sha256(secret.encode("utf-8")).digest()


def _parse(text: str, where: str) -> list[ApiKey]:
    """The keys of a text; empty lines and lines that start with # are skipped."""
    entries = [
        part.strip() for line in text.splitlines() if not line.lstrip().startswith("#") for part in line.split(";")
    ]
    return [_entry(entry, f"{where}, entry {place}") for place, entry in enumerate(filter(None, entries), start=1)]


def _entry(entry: str, where: str) -> ApiKey:
    # Messages repeat only the name: if someone put the key itself into the entry, it would end up in the log.
    parts = entry.split()
    if len(parts) not in (3, 4):
        raise ConfigError(f"{where}: has {len(parts)} parts, but must be {FORM}")
    name, scopes, digest = parts[:3]
    _require_name(name, where)
    unknown = sorted(set(scopes.split(",")) - set(KeyScope))
    if unknown:
        raise ConfigError(f"{where} ({name}): a scope is unknown; known are {', '.join(KeyScope)}")
    if not SHA256.fullmatch(digest):
        raise ConfigError(f"{where} ({name}): the digest must be 64 small hexadecimal digits; see `unitok keys new`")
    return ApiKey(
        name, frozenset(map(KeyScope, scopes.split(","))), bytes.fromhex(digest), _rate(parts[3:], f"{where} ({name})")
    )


def _require_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name) or name.startswith(KEY_PREFIX):
        raise ConfigError(f"{where}: the name must be 1 to 64 letters, digits, '_', '.' or '-', and no key")


def _rate(parts: Sequence[str], where: str) -> float | None:
    if not parts:
        return None
    try:
        rate = float(parts[0])
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ConfigError(f"{where}: items a second must be a number above 0")
    return rate
