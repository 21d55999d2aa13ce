"""The code for GPUs inside shared libraries: what is there, and less of it.

A *fat binary* is a container in a library's data with one entry per architecture; the driver takes
the entry that fits the device. Numbers are little-endian::

    container   magic 0xBA55ED50, u16 version, u16 header size, u64 size of the entries
    entry       u16 kind (1: PTX, 2: machine code), u16 version, u32 header size, u64 size, …
                at 28 the architecture as u32: 90 is sm_90

The library points to where containers begin. So each stays in its place and becomes shorter, and
zeros fill what it leaves, of which a compressed library keeps next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = (0xBA55ED50).to_bytes(4, "little")
_CONTAINER = struct.Struct("<IHHQ")
_SIZE = struct.Struct("<Q")
_SIZE_AT = 8
_ENTRY = struct.Struct("<HHIQ")
_ARCHITECTURE = struct.Struct("<I")
_ARCHITECTURE_AT = 28
_VERSION = 1
_ALIGNMENT = 8
_CODE = 2


@dataclass(frozen=True)
class Entry:
    """Code for one architecture, from ``begin`` to ``end`` in the library, header included."""

    kind: int
    architecture: int
    begin: int
    end: int

    def runs_on(self, sm: int) -> bool:
        """Say whether a device of this architecture can run it."""
        if self.kind != _CODE:
            return self.architecture <= sm
        return self.architecture // 10 == sm // 10 and self.architecture <= sm


@dataclass(frozen=True)
class Container:
    """One fat binary, which begins at ``begin``."""

    begin: int
    entries: tuple[Entry, ...]


def containers(library: bytes | bytearray) -> Iterator[Container]:
    """Yield every container in a library."""
    at = library.find(_MAGIC)
    while at >= 0:
        end = at + 1
        if at % _ALIGNMENT == 0 and at + _CONTAINER.size <= len(library):
            _, version, header, size = _CONTAINER.unpack_from(library, at)
            if (version, header) == (_VERSION, _CONTAINER.size) and at + size <= len(library):
                end = at + header + size
                yield Container(at, tuple(_entries(library, at + header, end)))
        at = library.find(_MAGIC, end)


def _entries(library: bytes | bytearray, at: int, end: int) -> Iterator[Entry]:
    while at < end:
        kind, _, header, size = _ENTRY.unpack_from(library, at)
        (architecture,) = _ARCHITECTURE.unpack_from(library, at + _ARCHITECTURE_AT)
        yield Entry(kind, architecture, at, at + header + size)
        at += header + size


def keep(library: bytearray, sm: int) -> int:
    """Remove the code that a device of architecture ``sm`` does not need; return its bytes.

    Of what could run there only the exact one stays, if there is one. A container in which nothing
    could is left alone.
    """
    removed = 0
    for container in containers(library):
        able = [entry for entry in container.entries if entry.runs_on(sm)]
        exact = [entry for entry in able if (entry.kind, entry.architecture) == (_CODE, sm)]
        kept = b"".join(bytes(library[entry.begin : entry.end]) for entry in exact or able)
        if not kept:
            continue
        begin, end = container.begin + _CONTAINER.size, container.entries[-1].end
        removed += end - begin - len(kept)
        library[begin:end] = kept.ljust(end - begin, b"\0")
        _SIZE.pack_into(library, container.begin + _SIZE_AT, len(kept))
    return removed
