"""JSON documents of strangers, looked at before they are read."""

from __future__ import annotations

MOST_PARTS = 10_000
"""Values in a document; an image in base64 is one of them."""

WIDE = f"The JSON has more than {MOST_PARTS:,} values."


def is_wide(body: bytes) -> bool:
    """Say whether a document has so many values that reading it would take long and much room.

    What separates and opens values is counted, also within texts; base64 holds none of it.
    """
    return sum(body.count(sign) for sign in (b",", b"[", b"{")) > MOST_PARTS
