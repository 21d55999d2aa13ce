"""Libraries lose the code for other GPUs, and stay valid."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from bench.gpu.fatbins import containers, keep

PTX, CODE = 1, 2


def entry(kind: int, architecture: int, code: bytes) -> bytes:
    header = struct.pack("<HHIQ12xI32x", kind, 0x101, 64, len(code), architecture)
    return header + code


def container(entries: Sequence[bytes]) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def library(*all_entries: Sequence[bytes]) -> bytearray:
    return bytearray(b"ELF data".ljust(64) + b"".join(map(container, all_entries)) + b"tail")


def kept(made: bytearray) -> list[list[tuple[int, int, bytes]]]:
    return [
        [
            (one.kind, one.architecture, bytes(made[one.begin + 64 : one.end]))
            for one in found.entries
        ]
        for found in containers(made)
    ]


def test_only_the_exact_code_stays_and_containers_stay_where_they_were() -> None:
    old, right, new = b"a" * 24, b"b" * 32, b"c" * 40
    made = library(
        [entry(CODE, 80, old), entry(CODE, 90, right), entry(CODE, 120, new)],
        [entry(PTX, 75, old), entry(CODE, 90, new)],
    )
    places, size = [found.begin for found in containers(made)], len(made)
    removed = keep(made, 90)
    assert kept(made) == [[(CODE, 90, right)], [(CODE, 90, new)]]
    assert [found.begin for found in containers(made)] == places
    assert (len(made), bytes(made[-4:])) == (size, b"tail")
    assert removed == sum(64 + len(code) for code in (old, new, old))


@pytest.mark.parametrize(
    ("entries", "able"),
    [
        # Code runs on later devices of its generation, PTX is compiled for any later one.
        ([(CODE, 75), (CODE, 80), (CODE, 86)], [(CODE, 80), (CODE, 86)]),
        ([(CODE, 75), (PTX, 75), (CODE, 90)], [(PTX, 75)]),
        ([(CODE, 75), (CODE, 120)], [(CODE, 75), (CODE, 120)]),
    ],
)
def test_without_exact_code_all_stays_that_may_run(
    entries: list[tuple[int, int]], able: list[tuple[int, int]]
) -> None:
    made = library([entry(kind, architecture, b"c" * 8) for kind, architecture in entries])
    keep(made, 89)
    assert [(kind, architecture) for kind, architecture, _ in kept(made)[0]] == able


def test_what_only_looks_like_a_container_is_left_alone() -> None:
    magic = (0xBA55ED50).to_bytes(4, "little")
    made = bytearray(b"x" * 3 + magic + b"y" * 25 + magic + b"\xff" * 28)
    before = bytes(made)
    assert keep(made, 90) == 0
    assert bytes(made) == before
