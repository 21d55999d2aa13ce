from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.subjects import is_token, shadow_source

SOURCES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


@given(source=SOURCES)
def test_the_source_of_a_shadow_is_a_source_too(source: str) -> None:
    assert is_token(shadow_source(source))
    assert shadow_source(source).startswith("shadow-")


@pytest.mark.parametrize(
    ("source", "shadow"), [("cam1", "shadow-cam1"), ("x" * 56, "shadow-" + "x" * 56)]
)
def test_it_tells_the_source_where_there_is_room(source: str, shadow: str) -> None:
    assert shadow_source(source) == shadow


def test_long_sources_stay_apart() -> None:
    assert shadow_source("x" * 62 + "a") != shadow_source("x" * 62 + "b")
