"""A key depends on all that the value depends on, and on nothing else."""

from __future__ import annotations

import re

import pytest

from visionmesh.cache import features_key, result_key
from visionmesh.contracts import Params

SHA = "5e" * 32


def test_keys_are_short_and_say_what_they_are_for() -> None:
    assert re.fullmatch(r"vm:r:[\w-]{28}", result_key(SHA, "v", "p", Params()))
    assert re.fullmatch(r"vm:f:[\w-]{28}", features_key(SHA, "v", "p"))


def test_the_same_gives_the_same() -> None:
    assert result_key(SHA, "v", "p", Params(top_k=3)) == result_key(SHA, "v", "p", Params(top_k=3))


@pytest.mark.parametrize(
    "other",
    [
        ("5f" * 32, "v", "p", Params()),
        (SHA, "w", "p", Params()),
        (SHA, "v", "q", Params()),
        (SHA, "p", "v", Params()),
        (SHA, "v", "p", Params(confidence=0.5)),
        (SHA, "v", "p", Params(iou=0.5)),
        (SHA, "v", "p", Params(top_k=1)),
        (SHA, "v", "p", Params(max_detections=1)),
    ],
)
def test_a_difference_gives_another_key(other: tuple[str, str, str, Params]) -> None:
    assert result_key(*other) != result_key(SHA, "v", "p", Params())
    same_image = other[:3] == (SHA, "v", "p")
    assert (features_key(*other[:3]) == features_key(SHA, "v", "p")) is same_image
