"""One API key as the mesh keeps it: all but the key itself."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator

from visionmesh.contracts import Frozen
from visionmesh.keys.rate import parse_rate

_KEY = re.compile(r"vmk_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_ALL = "*"
_ID_BYTES = 4
_SECRET_BYTES = 32


class Right(StrEnum):
    """What a key may be good for."""

    INFER = "infer"
    PUBLISH = "publish"
    READ = "read"
    """Results, models and metrics."""
    ADMIN = "admin"
    """Load, unload, create and delete models."""


def _rate(text: str) -> str:
    parse_rate(text)
    return text


class KeyRecord(Frozen):
    """What a key is good for, and the hash that tells it."""

    id: str
    sha256: str
    """Of the whole key, in hexadecimal. It is random, so a slow hash would protect nothing more."""
    name: str
    """Whose it is, for people."""
    models: tuple[str, ...] = ("*",)
    """Names, with ``*`` and ``?``."""
    rights: tuple[Right, ...]
    rate: Annotated[str, AfterValidator(_rate)] | None = None
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def is_of(self, key: str) -> bool:
        """Say whether this is the record of ``key``, in a time that tells nothing."""
        return hmac.compare_digest(_hash(key), self.sha256)

    def fault(self) -> str | None:
        """Say why the key is not valid now; `None`: it is."""
        if self.revoked is not None:
            return "was revoked"
        if self.expires is not None and self.expires <= datetime.now(UTC):
            return f"expired at {self.expires:%F %T} UTC"
        return None

    def covers(self, model: str) -> bool:
        """Say whether the key is good for ``model``; ``*``: for all of them."""
        if model == _ALL:  # is no name, which patterns such as ? would match
            return _ALL in self.models
        return any(fnmatchcase(model, pattern) for pattern in self.models)


def issue(
    *,
    name: str,
    models: Sequence[str] = ("*",),
    rights: Sequence[Right] = (Right.INFER, Right.PUBLISH, Right.READ),
    rate: str | None = None,
    expires: datetime | None = None,
) -> tuple[str, KeyRecord]:
    """Return a new key, which is to be found nowhere else, and its record."""
    id = secrets.token_hex(_ID_BYTES)
    key = f"vmk_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    record = KeyRecord(
        id=id,
        sha256=_hash(key),
        name=name,
        models=tuple(models),
        rights=tuple(rights),
        rate=rate,
        created=datetime.now(UTC),
        expires=expires,
    )
    return key, record


def id_in(key: str) -> str | None:
    """Return the id in a key; `None` if ``key`` does not look like one."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
