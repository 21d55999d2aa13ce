"""Events by HTTP: both modes, bare images, and what becomes of their sources."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.cloud import read, source_name
from visionmesh.errors import Code, Reject
from visionmesh.events import STRUCTURED
from visionmesh.subjects import is_token

BINARY = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "line-3", "ce-type": "photo"}


def test_both_modes_say_the_same() -> None:
    document = {
        "specversion": "1.0",
        "id": "7",
        "source": "line-3",
        "type": "photo",
        "data_base64": base64.b64encode(b"image").decode(),
    }
    structured = read(
        model="m", headers={"Content-Type": STRUCTURED}, body=json.dumps(document).encode()
    )
    assert structured == read(model="m", headers=BINARY, body=b"image")
    assert (structured.id, structured.source, structured.image) == ("7", "line-3", b"image")


def test_a_source_that_is_told_beats_that_of_the_event() -> None:
    assert read(model="m", headers=BINARY, body=b"image", source="other").source == "other"
    with pytest.raises(Reject) as caught:
        read(model="m", headers=BINARY, body=b"image", source="No Name")
    assert caught.value.code is Code.INVALID_NAME


def test_bare_images_are_different_events_even_if_they_look_the_same() -> None:
    first, second = (read(model="m", headers={}, body=b"image") for _ in range(2))
    assert first.id != second.id
    assert first.source == second.source == "http"


def test_a_uri_becomes_a_name_that_people_can_read() -> None:
    name = source_name("https://cams.example.org/Line 3/camera%207")
    assert name.startswith("https-cams-example-org-line-3-camera-207-")
    assert name != source_name("https://cams.example.org/line 3/camera%207")


@given(st.text(max_size=200))
def test_any_source_has_a_name(uri: str) -> None:
    assert not uri or is_token(source_name(uri))
    assert source_name("") == ""
