"""The three ways into a model's input, against OpenCV on the whole picture."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.preprocess.formats.header import Pixels
from services.preprocess.resize import MODES, fit, plan
from tests.services.preprocess.pictures import scene
from visionmesh.contracts import Placement
from visionmesh.models.spec import InputSpec, Resize

SIZES = [(500, 375), (375, 500), (640, 640), (13, 7), (416, 320), (1920, 1080), (1, 1)]
STRIP = (3, 997)
WAYS = [
    *((resize, size) for resize in Resize for size in SIZES),
    (Resize.LETTERBOX, STRIP),
    (Resize.STRETCH, STRIP),
]
SIDES = st.integers(1, 60) | st.sampled_from([61, 97, 5000])
INPUTS = [(416, 416), (640, 384), (97, 211)]


def reference(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Return ``(H, W, C) uint8``: resized as a whole, then laid on a canvas or cut."""
    high, wide, channels = pixels.shape
    ratios = spec.width / wide, spec.height / high
    match spec.resize:
        case Resize.STRETCH:
            size = spec.width, spec.height
        case Resize.LETTERBOX:
            size = max(1, round(wide * min(ratios))), max(1, round(high * min(ratios)))
        case Resize.CROP:
            size = round(wide * max(ratios)), round(high * max(ratios))
    whole = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    whole = np.asarray(whole, np.uint8).reshape(size[1], size[0], channels)
    left, top = abs(spec.width - size[0]) // 2, abs(spec.height - size[1]) // 2
    if spec.resize is Resize.CROP:
        return whole[top : top + spec.height, left : left + spec.width]
    if spec.anchor == "top_left":
        left = top = 0
    canvas = np.full((spec.height, spec.width, channels), spec.pad, np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = whole
    return canvas


def fitted(pixels: Pixels, spec: InputSpec) -> tuple[Pixels, Placement]:
    out = np.full((spec.height, spec.width, pixels.shape[2]), 201, np.uint8)
    placement = fit(pixels, (pixels.shape[1], pixels.shape[0]), spec, out)
    return out, placement


@pytest.mark.parametrize(("resize", "original"), WAYS)
@pytest.mark.parametrize("wanted", INPUTS)
@pytest.mark.parametrize("anchor", ["center", "top_left"])
@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_every_mode_equals_opencv_within_one_grey_level(
    resize: Resize,
    original: tuple[int, int],
    wanted: tuple[int, int],
    anchor: Literal["center", "top_left"],
    color: Literal["RGB", "GRAY"],
) -> None:
    spec = InputSpec(
        width=wanted[0], height=wanted[1], resize=resize, anchor=anchor, color=color, pad=17
    )
    pixels = np.ascontiguousarray(scene(*original)[..., : spec.channels])
    out, _ = fitted(pixels, spec)
    assert np.abs(out.astype(int) - reference(pixels, spec)).max() <= 1


def test_every_mode_of_a_model_has_an_implementation() -> None:
    assert set(MODES) == set(Resize)


@pytest.mark.parametrize("resize", list(Resize))
def test_the_placement_says_where_a_point_of_the_original_lies(resize: Resize) -> None:
    spec = InputSpec(width=320, height=256, resize=resize)
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[280:320, 380:440] = 255
    out, place = fitted(pixels, spec)
    rows, columns = np.nonzero(out[..., 0] > 200)
    assert columns.min() == pytest.approx(380 * place.scale_x + place.offset_x, abs=1)
    assert columns.max() + 1 == pytest.approx(440 * place.scale_x + place.offset_x, abs=1)
    assert rows.min() == pytest.approx(280 * place.scale_y + place.offset_y, abs=1)
    assert rows.max() + 1 == pytest.approx(320 * place.scale_y + place.offset_y, abs=1)


@pytest.mark.parametrize("resize", list(Resize))
def test_a_picture_decoded_smaller_is_placed_by_its_original(resize: Resize) -> None:
    spec = InputSpec(width=224, height=160, resize=resize)
    pixels = scene(1600, 1200)
    smaller = cv2.resize(pixels, (400, 300), interpolation=cv2.INTER_AREA)
    whole, place = fitted(pixels, spec)
    out = np.empty_like(whole)
    assert fit(smaller, (1600, 1200), spec, out) == place
    assert np.abs(out.astype(int) - whole).mean() < 3


@pytest.mark.parametrize("wanted", [(416, 416), (64, 32)])
@pytest.mark.parametrize("original", [(1, 5000), (5000, 1), (3, 997), (20, 4001)])
def test_a_long_strip_is_cropped_to_its_middle_without_resizing_the_rest(
    original: tuple[int, int], wanted: tuple[int, int]
) -> None:
    spec = InputSpec(width=wanted[0], height=wanted[1], resize=Resize.CROP)
    wide, high = original
    down, across = np.mgrid[0:high, 0:wide]
    ramp = (down if high > wide else across) * 255 // max(original)
    pixels = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    out, place = fitted(pixels, spec)
    assert np.abs(out.astype(int) - 127).max() <= 3
    assert place.scale_x == pytest.approx(place.scale_y, rel=0.05)
    assert place.offset_x + place.scale_x * wide / 2 == pytest.approx(spec.width / 2, abs=1)
    assert place.offset_y + place.scale_y * high / 2 == pytest.approx(spec.height / 2, abs=1)


def test_only_the_given_slot_is_written() -> None:
    slab = np.full((3, 64, 80, 3), 9, np.uint8)
    fit(scene(31, 90), (31, 90), InputSpec(width=80, height=64), slab[1])
    assert (slab[0] == 9).all()
    assert (slab[2] == 9).all()
    assert (slab[1] != 9).any(axis=2).all()


@settings(deadline=None)  # a busy machine is no defect
@example(original=(1, 1), wanted=(1, 2), resize=Resize.CROP, anchor="center", channels=3)
@given(
    original=st.tuples(SIDES, SIDES),
    wanted=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resize=st.sampled_from(Resize),
    anchor=st.sampled_from(["center", "top_left"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_size_fills_the_input_and_stays_on_its_place(
    original: tuple[int, int],
    wanted: tuple[int, int],
    resize: Resize,
    anchor: Literal["center", "top_left"],
    channels: int,
) -> None:
    spec = InputSpec(width=wanted[0], height=wanted[1], resize=resize, anchor=anchor, pad=3)
    pixels = np.full((original[1], original[0], channels), 100, np.uint8)
    out, place = fitted(pixels, spec)
    assert set(np.unique(out)) <= ({100, 3} if resize is Resize.LETTERBOX else {100})
    where = plan(original, spec)
    if resize is Resize.LETTERBOX:
        assert (out == 100).all(axis=2).sum() == where.width * where.height
        assert where.width <= spec.width
        assert where.height <= spec.height
        assert spec.width == where.width or spec.height == where.height
    else:
        assert where.x <= 0 <= where.x + where.width - spec.width
        assert where.y <= 0 <= where.y + where.height - spec.height
    assert place.scale_x == where.width / original[0]
    assert place.offset_y == where.y
