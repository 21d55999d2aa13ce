"""Compressed bodies are read as far as is allowed, and no further."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.oip.compression import accepted, deflate, inflate, require_known
from visionmesh.errors import Code, Reject

LIMIT = 1 << 20


@pytest.mark.parametrize(
    ("encoding", "compress", "decompress"),
    [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
)
@given(body=st.binary(max_size=200))
def test_bodies_come_back(encoding: str, compress, decompress, body: bytes) -> None:  # type: ignore[no-untyped-def]
    assert inflate(compress(body), encoding, max_bytes=LIMIT) == body
    assert decompress(deflate(body, encoding)) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        gzip.compress(b"a" * 100)[:-3],
        gzip.compress(b"a") + b"more",
        gzip.compress(b"a") + gzip.compress(b"b"),
        zlib.compress(b"a"),
    ],
)
def test_what_is_not_one_whole_stream_is_refused(body: bytes) -> None:
    with pytest.raises(Reject) as refused:
        inflate(body, "gzip", max_bytes=LIMIT)
    assert refused.value.code is Code.INVALID_REQUEST


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(200 << 20))
    tracemalloc.start()
    with pytest.raises(Reject) as refused:
        inflate(bomb, "gzip", max_bytes=LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.code is Code.PAYLOAD_TOO_LARGE
    assert peak < 4 * LIMIT


def test_other_encodings_are_refused() -> None:
    assert require_known(" GZIP ") == "gzip"
    assert require_known("identity") == ""
    with pytest.raises(Reject, match="gzip or deflate"):
        require_known("br")


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("br, deflate;q=0.5, gzip;q=0.8", "gzip"),
        ("gzip;q=0", ""),
        ("identity", ""),
        ("gzip;q=what", ""),
    ],
)
def test_the_client_chooses_the_encoding(header: str, encoding: str) -> None:
    assert accepted(header) == encoding
