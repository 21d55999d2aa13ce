from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.bundle import Parcel, decode, encode, split
from visionmesh.contracts import InlineLocation, Params, Reference, ShmLocation
from visionmesh.errors import Code, Reject


def parcel(payload: bytes | None, number: int = 0) -> Parcel:
    shm = ShmLocation(arena="a", slot=3, generation=8, length=100)
    reference = Reference(
        id=f"event-{number}",
        source="s",
        model="m",
        version=1,
        sha256="0" * 64,
        params=Params(confidence=0.5),
        location=shm if payload is None else InlineLocation(offset=0, length=len(payload)),
    )
    return Parcel(reference, payload)


@given(st.lists(st.none() | st.binary(max_size=50), max_size=6))
def test_carries_references_and_payloads(payloads: list[bytes | None]) -> None:
    parcels = [parcel(payload, number) for number, payload in enumerate(payloads)]
    references, region = decode(encode(parcels))
    for sent, got in zip(parcels, references, strict=True):
        if sent.payload is None:
            assert got == sent.reference
        else:
            assert isinstance(got.location, InlineLocation)
            begin, length = got.location.offset, got.location.length
            assert bytes(region[begin : begin + length]) == sent.payload
            assert got.model_copy(update={"location": sent.reference.location}) == sent.reference


@given(st.binary(max_size=200).map(lambda body: body.replace(b"[", b"")))
def test_rejects_what_is_no_bundle(body: bytes) -> None:
    with pytest.raises(Reject) as caught:
        decode(body)
    assert caught.value.code is Code.INVALID_EVENT


@given(st.data())
def test_rejects_a_bundle_that_is_cut_off(data: st.DataObject) -> None:
    body = encode([parcel(b"payload", 1), parcel(b"more", 2)])
    with pytest.raises(Reject):
        decode(body[: data.draw(st.integers(0, len(body) - 1))])


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 60))
def test_splits_by_size_and_keeps_the_order(sizes: list[int], limit: int) -> None:
    parcels = [parcel(bytes(size), number) for number, size in enumerate(sizes)]
    parts = list(split(parcels, max_bytes=limit))
    assert [one for part in parts for one in part] == parcels
    assert all(len(part) == 1 or sum(one.size for one in part) <= limit for part in parts)
