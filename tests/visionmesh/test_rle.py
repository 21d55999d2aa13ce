from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from visionmesh import rle
from visionmesh.contracts import Rle

Mask = NDArray[np.bool_]


def plain_counts(mask: Mask) -> list[int]:
    """Count the runs of a mask pixel by pixel, down each column, background first."""
    pixels = [bool(mask[y, x]) for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    runs = [(value, len(list(run))) for value, run in groupby(pixels)]
    return [0] * runs[0][0] + [length for _, length in runs]


def plain_text(counts: list[int]) -> str:
    """Write counts as COCO's `rleToString` does, one character after the other."""
    text = ""
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != -1 if bits & 0x10 else number != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = random.random((height, width)) < draw(st.sampled_from([0, 0.02, 0.5, 0.98, 1]))
    # Whole columns, alone and side by side, are where runs meet.
    mask[:, random.random(width) < draw(st.sampled_from([0, 0.3]))] = True
    return mask


@given(masks())
def test_any_mask_is_written_as_coco_writes_it_and_read_back(mask: Mask) -> None:
    told = rle.encode(mask)
    assert told == Rle(size=mask.shape, counts=plain_text(plain_counts(mask)))
    np.testing.assert_array_equal(rle.decode(told), mask)


@given(masks(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_part_is_written_as_the_whole_image_around_it(
    mask: Mask, left: int, top: int, right: int, bottom: int
) -> None:
    whole = np.pad(mask, ((top, bottom), (left, right)))
    assert rle.encode(mask, size=whole.shape, corner=(left, top)) == rle.encode(whole)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**32))
def test_the_classes_of_a_map_are_written_as_their_masks(
    height: int, width: int, count: int, seed: int
) -> None:
    classes = np.random.default_rng(seed).integers(0, count, (height, width)) * 50
    told = list(rle.encode_classes(classes))
    assert [value for value, _, _ in told] == np.unique(classes).tolist()
    for value, area, mask in told:
        assert area == (classes == value).sum()
        assert mask == rle.encode(classes == value)


@pytest.mark.parametrize(
    "counts",
    [[0, 1], [15, 1], [16, 1], [1, 1, 1, 600, 5, 80], [10**6, 3, 10**7, 1, 10**7, 2 * 10**7]],
)
def test_counts_of_any_size_are_read_as_they_are_written(counts: list[int]) -> None:
    mask = rle.decode(Rle(size=(sum(counts), 1), counts=plain_text(counts)))
    edges = np.cumsum(counts)
    wanted = np.searchsorted(edges, np.arange(sum(counts)), side="right") % 2 == 1
    np.testing.assert_array_equal(mask[:, 0], wanted)
    assert rle.encode(mask).counts == plain_text(counts)


def test_a_disc_is_written_as_cocos_own_library_does() -> None:
    rows, columns = np.mgrid[:12, :9]
    disc = (columns - 4) ** 2 + (rows - 6) ** 2 <= 9
    assert rle.encode(disc).counts == "b0194N0O20N102L8"  # from pycocotools 2.0's mask.encode


@pytest.mark.parametrize(
    "counts", ["", " ", "p", "é", "231o", "23", "2311", "Q" * 9 + "1", "9K1", "\n231"]
)
def test_what_is_no_mask_of_this_size_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="count"):
        rle.decode(Rle(size=(2, 3), counts=counts))
