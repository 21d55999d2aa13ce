from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from visionmesh import rle
from visionmesh.contracts import ClassScore, Detection, Heatmap, Region, Result, Status
from visionmesh.drawing import colour_of, draw

GREY = 90
CYAN = (255, 255, 0)
HEIGHT, WIDTH = 300, 400
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def canvas(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    return np.full((height, width, 3), GREY, np.uint8)


def result(**fields: object) -> Result:
    values = {"id": "1", "source": "test", "model": "finder", "status": Status.OK}
    return Result.model_validate(values | fields)


def square(left: int, top: int, right: int, bottom: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def region(mask: Mask, label: str = "crack") -> Region:
    return Region(label=label, share=float(mask.mean()), mask=rle.encode(mask))


def changed(drawn: Pixels) -> Mask:
    differs: Mask = (drawn != GREY).any(axis=2)
    return differs


def heated(values: NDArray[np.float64], image: Pixels | None = None, **fields: object) -> Pixels:
    """Return what is drawn of an image with this heat-map from 0 to 1."""
    _, png = cv2.imencode(".png", np.rint(values * 255).astype(np.uint8))
    height, width = values.shape
    heatmap = Heatmap(sha256="0" * 64, width=width, height=height, low=0, high=1)
    image = canvas() if image is None else image
    return draw(image, result(heatmap=heatmap, **fields), heatmap=png.tobytes())


def luma(colour: NDArray[np.uint8]) -> float:
    return float(colour @ np.array([0.114, 0.587, 0.299]))


@pytest.mark.parametrize("kind", ["region", "detection"])
def test_a_mask_is_tinted_within_a_line_in_the_colour_of_its_class(kind: str) -> None:
    mask = square(150, 150, 250, 200)
    if kind == "region":
        drawn = draw(canvas(), result(regions=[region(mask)]))
    else:
        found = Detection(label="crack", score=1, box=(150, 150, 250, 200), mask=rle.encode(mask))
        drawn = draw(canvas(), result(detections=[found]))
    colour = np.array(colour_of("crack"))
    within = drawn[155:195, 155:245]
    np.testing.assert_allclose(
        within, np.broadcast_to(0.6 * GREY + 0.4 * colour, within.shape), atol=1
    )
    outside = changed(drawn) & ~square(140, 0, 260, 210)
    assert not outside[60:].any()
    for x, y in [(200, 148), (148, 180), (200, 202), (252, 180)]:
        assert (
            np.abs(drawn[y - 1 : y + 2, x - 1 : x + 2] - colour.astype(int)).sum(axis=2) < 60
        ).any()


def test_holes_and_parts_have_lines_of_their_own() -> None:
    mask = square(100, 100, 200, 200) & ~square(130, 130, 170, 170) | square(300, 100, 320, 120)
    drawn = draw(canvas(), result(regions=[region(mask)]))
    assert not changed(drawn)[140:160, 140:160].any()
    assert changed(drawn)[100:120, 300:320].all()


def test_the_smallest_flaw_is_not_hidden_under_its_line() -> None:
    drawn = draw(canvas(), result(regions=[region(square(200, 200, 201, 201))]))
    near = changed(drawn)[190:211, 190:211]
    assert near.sum() > 8
    line = (drawn[190:211, 190:211] == colour_of("crack")).all(axis=2)
    assert not line[10, 10]


def test_an_empty_mask_and_one_of_another_image_are_left_out() -> None:
    for mask in (square(0, 0, 0, 0), np.ones((HEIGHT + 1, WIDTH), bool)):
        found = Detection(label="crack", score=1, box=(150, 150, 250, 200))
        masked = found.model_copy(update={"mask": rle.encode(mask)})
        with_mask = draw(canvas(), result(detections=[masked]))
        np.testing.assert_array_equal(with_mask, draw(canvas(), result(detections=[found])))


def test_a_turned_box_is_drawn_along_its_corners() -> None:
    corners = ((200, 100), (280, 180), (200, 260), (120, 180))
    found = Detection(label="crack", score=1, box=(120, 100, 280, 260), corners=corners)
    drawn = draw(canvas(), result(detections=[found]))
    for x, y in [(240, 140), (240, 220), (160, 220), (160, 140)]:
        assert changed(drawn)[y - 1 : y + 2, x - 1 : x + 2].any()
    for x, y in [(120, 259), (279, 259), (200, 180)]:
        assert not changed(drawn)[y, x]


def test_regions_are_a_caption_that_leaves_half_of_the_image_free() -> None:
    many = [region(square(0, 299, 1, 300), f"c{index}") for index in range(50)]
    drawn = changed(draw(canvas(), result(regions=many)))
    assert drawn[5, 5]
    assert not drawn[HEIGHT // 2 + 5 : HEIGHT - 10].any()


def test_heat_glows_where_the_image_is_unusual_and_nowhere_else() -> None:
    values = np.zeros((30, 40))
    values[10:20, 10:15], values[10:20, 25:30] = 0.6, 1.0
    drawn = heated(values)
    image = drawn[:HEIGHT]
    assert not changed(image)[:90].any()
    cool, warm, hot = image[20, 20], image[150, 125], image[150, 275]
    assert (cool == GREY).all()
    assert luma(warm) < luma(hot)
    assert warm[2] > warm[0] + 50, "warm is reddish"


def test_what_lies_under_the_heat_can_still_be_seen() -> None:
    image = canvas()
    image[150, 200:260] = 255
    drawn = heated(np.ones((3, 4)), image)
    assert luma(drawn[150, 230]) > luma(drawn[140, 230]) + 30


def test_no_caption_and_no_legend_covers_the_image() -> None:
    classes = [ClassScore(label="flawed", score=0.9), ClassScore(label="good", score=0.1)]
    noise = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    drawn = heated(np.zeros((3, 4)), noise, classes=classes)
    assert drawn.shape[0] > HEIGHT + 40
    assert drawn.shape[1] == WIDTH
    tops = [
        top for top in range(drawn.shape[0] - HEIGHT) if (drawn[top : top + HEIGHT] == noise).all()
    ]
    assert len(tops) == 1
    assert (drawn[: tops[0]] == colour_of("flawed")).all(axis=2).any()


def test_the_legend_goes_from_dark_to_bright_between_its_values() -> None:
    sheet = heated(np.zeros((3, 4)))
    row = sheet[-1].astype(float) @ np.array([0.114, 0.587, 0.299])
    scale = np.flatnonzero(sheet[-1].any(axis=1))
    begin, end = scale.min(), scale.max()
    assert 100 < end - begin < WIDTH - 40
    ramp = row[begin:end]
    assert (np.diff(ramp) > -0.5).all()
    assert ramp[-1] > 200
    letters = sheet[HEIGHT:, end + 3 : end + 40]
    assert (letters > 128).any(), "the highest value stands behind the scale"


def test_what_is_over_the_threshold_is_outlined_beside_a_heat_map() -> None:
    mask = square(150, 150, 250, 200)
    drawn = heated(np.zeros((3, 4)), regions=[region(mask)])
    top = drawn.shape[0] - HEIGHT - (heated(np.zeros((3, 4))).shape[0] - HEIGHT)
    image = drawn[top : top + HEIGHT]
    assert not changed(image)[155:195, 155:245].any()
    assert (image[146:150, 200] == CYAN).all(axis=1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (12, 12), (1200, 1600)])
def test_any_image_can_be_heated(shape: tuple[int, int]) -> None:
    drawn = heated(np.ones((2, 2)), canvas(*shape), classes=[ClassScore(label="bad", score=1)])
    assert drawn.shape[0] > shape[0]
    assert drawn.shape[1] == shape[1]


def test_a_heat_map_that_is_none_is_refused() -> None:
    heatmap = Heatmap(sha256="0" * 64, width=1, height=1, low=0, high=1)
    with pytest.raises(ValueError, match="not a PNG"):
        draw(canvas(), result(heatmap=heatmap), heatmap=b"no PNG")
