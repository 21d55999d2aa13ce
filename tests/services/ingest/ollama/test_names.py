"""What models are called."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.ollama.names import Name, new_name, parse_name
from visionmesh.errors import Code, Refused, Reject


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("board-defects", Name("board-defects")),
        ("board-defects:latest", Name("board-defects")),
        ("board-defects:3", Name("board-defects", 3)),
        ("library/board-defects", Name("board-defects")),
    ],
)
def test_a_name_is_a_model_and_perhaps_a_version(text: str, name: Name) -> None:
    assert parse_name(text) == name
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", ":1", "a:0", "a:7b", "a:-1", "a:1:1", "a:²", "hub.example/a", "A", "a" * 1000]
)
def test_no_other_name_is_one_of_the_mesh(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_name(text)
    assert refused.value.code is Code.UNKNOWN_MODEL
    assert len(refused.value.message) < 200


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    with suppress(Refused):
        assert parse_name(text).model in text


def test_what_is_made_has_no_version() -> None:
    assert new_name("trees:latest") == "trees"
    for text in ("trees:2", "Trees", ""):
        with pytest.raises(Reject):
            new_name(text)
