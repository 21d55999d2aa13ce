"""Pictures that look alike have hashes that are near, and nothing is remembered for ever."""

from __future__ import annotations

from datetime import timedelta

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from visionmesh.nearness import NearDuplicates, distance, perceptual_hash

small = hnp.arrays(np.uint8, (8, 9))
large = hnp.arrays(np.uint8, (32, 32))


@given(small)
def test_the_difference_hash_compares_each_pixel_with_its_right_neighbour(
    gray: NDArray[np.uint8],
) -> None:
    bits = "".join(
        "1" if gray[row, column] < gray[row, column + 1] else "0"
        for row in range(8)
        for column in range(8)
    )
    assert perceptual_hash(gray) == int(bits, 2)


@given(large)
def test_the_cosine_hash_agrees_with_opencv_about_all_clear_bits(
    gray: NDArray[np.uint8],
) -> None:
    low = cv2.dct(gray.astype(np.float64))[:8, :8]
    above = low - np.median(low.ravel()[1:])
    clear = np.abs(above) > 1e-6
    found = np.array([c == "1" for c in f"{perceptual_hash(gray):064b}"]).reshape(8, 8)
    np.testing.assert_array_equal(found[clear], (above > 0)[clear])


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (32, 31), (8, 9, 1), (0,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="neither"):
        perceptual_hash(np.zeros(shape, np.uint8))


def a_scene(seed: int) -> NDArray[np.uint8]:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6), np.uint8)
    return np.asarray(cv2.resize(rough, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def recompressed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, jpeg = cv2.imencode(".jpg", cv2.add(picture, 8), [cv2.IMWRITE_JPEG_QUALITY, 40])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.uint8)


@pytest.mark.parametrize("size", [(9, 8), (32, 32)])
def test_a_recompressed_brighter_picture_is_nearer_than_any_other(size: tuple[int, int]) -> None:
    def look(picture: NDArray[np.uint8]) -> int:
        thumbnail = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return perceptual_hash(thumbnail.astype(np.uint8))

    scenes = [a_scene(seed) for seed in range(20)]
    hashes = [look(scene) for scene in scenes]
    same = [
        distance(look(recompressed(scene)), own) for scene, own in zip(scenes, hashes, strict=True)
    ]
    other = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert max(same) <= 6 < min(other)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_distance_counts_the_bits_that_differ(one: int, other: int) -> None:
    pairs = zip(f"{one:064b}", f"{other:064b}", strict=True)
    assert distance(one, other) == sum(a != b for a, b in pairs)


def test_a_near_image_of_the_same_source_matches() -> None:
    near = NearDuplicates()
    near.remember("cam", 0b1111, "key")
    assert near.match("cam", 0b1100, 2) == "key"
    assert near.match("cam", 0b1000, 2) is None
    assert near.match("other", 0b1111, 2) is None


def test_a_slow_change_is_noticed_in_the_end() -> None:
    near = NearDuplicates()
    near.remember("cam", 0, "first")
    answers = [near.match("cam", (1 << bits) - 1, 3) for bits in range(6)]
    assert answers == ["first"] * 4 + [None] * 2


def test_an_old_image_matches_nothing_and_is_forgotten() -> None:
    near = NearDuplicates(max_age=timedelta(0))
    near.remember("cam", 0, "key")
    assert near.match("cam", 0, 64) is None
    assert len(near) == 0


def test_the_sources_seen_last_are_kept() -> None:
    near = NearDuplicates(max_sources=2)
    near.remember("a", 0, "a")
    near.remember("b", 0, "b")
    near.match("a", 0, 0)
    near.remember("c", 0, "c")
    assert [near.match(source, 0, 0) for source in "abc"] == ["a", None, "c"]
