"""Frames of one source that look alike, and pictures that nobody should look at."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.ingest.near import NearFrames
from tests.services.ingest.test_flights import image as reference_of
from visionmesh.settings import PreprocessSettings, Settings
from visionmesh.supervisor import child_environment

_LOOK = "import sys; from services.ingest.near import _look; print(_look(sys.stdin.buffer.read()))"


def photo(*, quality: int, seed: int = 0) -> bytes:
    """Return a JPEG of soft shapes, which another quality changes a little everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=quality
    )
    return file.getvalue()


@pytest.mark.parametrize(("asked", "same"), [("", True), ("another version", False)])
async def test_a_recompressed_frame_is_answered_as_the_first_one(asked: str, same: bool) -> None:
    frames = NearFrames()
    first, second = reference_of("first"), reference_of("second")
    assert await frames.match(first, photo(quality=95), asked="", distance=4) is None
    found = await frames.match(second, photo(quality=60), asked=asked, distance=4)
    assert (found == first.result_key) is same


async def test_another_picture_is_not_near_and_is_the_next_to_compare_with() -> None:
    frames = NearFrames()
    await frames.match(reference_of("first"), photo(quality=95), asked="", distance=4)
    other = reference_of("other")
    assert await frames.match(other, photo(quality=95, seed=1), asked="", distance=4) is None
    third = reference_of("third")
    found = await frames.match(third, photo(quality=60, seed=1), asked="", distance=4)
    assert found == other.result_key


async def test_what_is_no_picture_is_near_to_nothing() -> None:
    frames = NearFrames()
    for _ in range(2):
        assert await frames.match(reference_of("text"), b"text", asked="", distance=16) is None


@pytest.mark.parametrize(("limit", "looks"), [(1_000_000, False), (4_000_000, True)])
def test_a_picture_with_more_pixels_than_are_taken_is_not_unpacked(
    tmp_path: Path, limit: int, looks: bool
) -> None:
    large = BytesIO()
    Image.new("L", (2000, 2000)).save(large, "PNG")
    settings = Settings(state_dir=tmp_path, preprocess=PreprocessSettings(max_pixels=limit))
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK],
        input=large.getvalue(),
        env=child_environment(settings),
        capture_output=True,
        check=True,
    )
    assert (looked.stdout.strip() != b"None") is looks
