"""Image file directories: the tags of a TIFF file, and of EXIF, which borrows its structure.

Source: TIFF 6.0 (Adobe, 1992), section 2; BigTIFF's layout as in libtiff's documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final, NamedTuple

from services.preprocess.formats.header import Data

ORIENTATION: Final = 0x0112

_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""The types BYTE, SHORT, LONG and LONG8; no other is asked for."""
_MOST_TAGS: Final = 4096
"""Real directories have a few dozen; more are a way to keep the reader busy."""


class _Layout(NamedTuple):
    offset: struct.Struct
    entries: struct.Struct
    entry: struct.Struct
    inline: int
    """Bytes of a value that fit into its entry."""
    first: int
    """Where the header says at what offset the first directory lies."""


def _layouts(order: str) -> dict[int, _Layout]:
    def of(form: str) -> struct.Struct:
        return struct.Struct(order + form)

    return {
        42: _Layout(of("I"), of("H"), of("HHI"), 4, 4),
        43: _Layout(of("Q"), of("Q"), of("HHQ"), 8, 8),
    }


_ORDERS: Final = {b"II": ("<", _layouts("<")), b"MM": (">", _layouts(">"))}


def read_tags(data: Data, wanted: Collection[int]) -> dict[int, int]:
    """Return the first value of each ``wanted`` tag that the first directory holds.

    Raises
    ------
    struct.error
        If the data end before the directory does.
    ValueError
        If the data do not begin like a TIFF file.
    """
    order, layouts = _ORDERS.get(bytes(data[:2]), ("<", {}))
    layout = layouts.get(struct.unpack_from(order + "H", data, 2)[0])
    if layout is None:
        raise ValueError("no byte order mark")
    position = layout.offset.unpack_from(data, layout.first)[0]
    count = min(layout.entries.unpack_from(data, position)[0], _MOST_TAGS)
    position += layout.entries.size
    found: dict[int, int] = {}
    for _ in range(count):
        tag, kind, values = layout.entry.unpack_from(data, position)
        if tag in wanted and kind in _INTEGERS and values:
            value = struct.Struct(order + _INTEGERS[kind])
            at = position + layout.entry.size
            if values * value.size > layout.inline:
                at = layout.offset.unpack_from(data, at)[0]
            found[tag] = value.unpack_from(data, at)[0]
        position += layout.entry.size + layout.inline
    return found


def exif_orientation(exif: Data) -> int:
    """Return the orientation that an EXIF block states; 1 where it states none or is damaged."""
    try:
        orientation = read_tags(exif, (ORIENTATION,)).get(ORIENTATION, 1)
    except (struct.error, ValueError):
        return 1
    return valid_orientation(orientation)


def valid_orientation(orientation: int) -> int:
    """Return ``orientation`` if it is one of EXIF's eight, else 1 (as it is)."""
    return orientation if 1 <= orientation <= 8 else 1  # noqa: PLR2004 - EXIF's eight
