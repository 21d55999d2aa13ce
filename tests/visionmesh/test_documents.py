from __future__ import annotations

import base64

import pytest

from visionmesh.documents import MOST_PARTS, is_wide
from visionmesh.errors import Code, Reject
from visionmesh.events import STRUCTURED, parse


def test_an_image_in_base64_is_one_value() -> None:
    assert not is_wide(b'{"data": "' + base64.b64encode(bytes(range(256)) * 10_000) + b'"}')
    assert is_wide(b"[" + b"0," * MOST_PARTS + b"0]")
    assert is_wide(b'{"a":' * (MOST_PARTS + 1))


def test_a_wide_structured_event_is_refused_unread() -> None:
    body = b'{"specversion": "1.0", "x": [' + b"0," * MOST_PARTS + b"0]}"
    with pytest.raises(Reject, match="more than 10,000 values") as refused:
        parse(model="cats", source="cam", headers={"Content-Type": STRUCTURED}, body=body)
    assert refused.value.code is Code.INVALID_EVENT
