"""Compressed bodies, as HTTP's ``Content-Encoding`` names them."""

from __future__ import annotations

import gzip
import zlib

from services.ingest.accepting import preferred
from visionmesh.errors import Code, Reject

_WINDOWS = {"gzip": 31, "deflate": 15}
"""zlib's parameter for either container; `deflate` is zlib's own, RFC 9110, section 8.4.1.2."""
_LEVEL = 1
"""Tensors hardly shrink further at higher levels, but take many times as long."""


def require_known(encoding: str) -> str:
    """Return the encoding in lower case, "" if it changes nothing; raise `Reject`."""
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return ""
    if encoding not in _WINDOWS:
        raise Reject(
            Code.UNSUPPORTED_MEDIA, f"Content-Encoding may be gzip or deflate, not {encoding!r}."
        )
    return encoding


def inflate(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Return what was compressed.

    Raises
    ------
    Reject
        (invalid_request) if it is not of that encoding, cut off or followed by something else;
        (payload_too_large) beyond ``max_bytes``, of which no more than that is computed.
    """
    inflating = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = inflating.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Reject(Code.INVALID_REQUEST, f"The body is no {encoding}: {error}.") from error
    if len(plain) > max_bytes:
        raise Reject(
            Code.PAYLOAD_TOO_LARGE, f"At most {max_bytes:,} bytes are taken, inflated ones, too."
        )
    if not inflating.eof or inflating.unused_data:
        raise Reject(Code.INVALID_REQUEST, f"The body is not one whole {encoding} stream.")
    return plain


def deflate(body: bytes, encoding: str) -> bytes:
    """Return the body compressed."""
    if encoding == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0)
    return zlib.compress(body, _LEVEL)


def accepted(header: str) -> str:
    """Return the encoding that an ``Accept-Encoding`` likes best of those known; "" if none."""
    return preferred(header, {name: name for name in _WINDOWS}) or ""
