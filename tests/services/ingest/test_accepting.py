"""What a client likes best of what we can give."""

from __future__ import annotations

import pytest

from services.ingest.accepting import preferred

KNOWN = {"a": "A", "b": "B", "*": "A"}


@pytest.mark.parametrize(
    ("header", "best"),
    [
        ("", None),
        ("c", None),
        ("b, a", "B"),
        ("B;q=0.5, A ; q=0.501", "A"),
        ("b;level=1;q=0.1, *;q=0.2", "A"),
        ("a;q=0, b;q=0.000", None),
        ("a;q=0.2, b;q=1.000", "B"),
        ("a;q=1.001, b;q=0.1", "B"),
        ("a;q=inf, b;q=0.1", "B"),
        ("a;q=1e3, b;q=-1", None),
    ],
)
def test_the_greatest_weight_wins_and_what_is_none_weighs_nothing(
    header: str, best: str | None
) -> None:
    assert preferred(header, KNOWN) == best
