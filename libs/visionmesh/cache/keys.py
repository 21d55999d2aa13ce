"""Under which keys things are cached: digests of everything that they depend on."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode

from visionmesh.contracts import Params

_DIGEST_BYTES = 21
"""168 bits: beyond anybody's search for two images with one key; 28 characters of base64."""


def result_key(sha256: str, version_digest: str, preprocess_digest: str, params: Params) -> str:
    """Return the key of an answer: ``vm:r:`` and 28 characters.

    ``sha256`` is that of the encoded image; the digests stand for the model's version with all
    that shapes its answers, and for how images become its input.
    """
    asked = params.model_dump_json(exclude_none=True)
    return "vm:r:" + _digest(sha256, version_digest, preprocess_digest, asked)


def features_key(sha256: str, version_digest: str, preprocess_digest: str) -> str:
    """Return the key of what all answers to one image are made of: ``vm:f:`` and 28 characters."""
    return "vm:f:" + _digest(sha256, version_digest, preprocess_digest)


def _digest(*parts: str) -> str:
    # No part holds a line break, so different parts never join to the same text.
    joined = "\n".join(parts).encode()
    return urlsafe_b64encode(hashlib.blake2b(joined, digest_size=_DIGEST_BYTES).digest()).decode()
