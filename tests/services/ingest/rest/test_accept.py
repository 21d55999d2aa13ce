"""Whether a client wants JSON or a picture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.rest.pictures import JSON, PICTURES, wanted


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("image/*", JSON),
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/PNG", "image/png"),
        ("application/json, image/jpeg", JSON),
        ("image/jpeg, application/json", "image/jpeg"),
        ("image/jpeg;q=0.2, image/png;q=0.3", "image/png"),
        ("image/jpeg;q=0", JSON),
        ("image/jpeg;q=much", JSON),
        ("text/html,image/avif,image/webp,image/png,*/*;q=0.8", "image/png"),
        ("image/png;q=0.1, */*", JSON),
    ],
)
def test_the_type_of_most_weight_wins(accept: str | None, kind: str) -> None:
    assert wanted(accept) == kind


@given(st.text(alphabet=st.sampled_from("image/jpeg,png;q=0.5*nan- ")))
def test_any_header_is_answered(accept: str) -> None:
    assert wanted(accept) in (JSON, *PICTURES)
