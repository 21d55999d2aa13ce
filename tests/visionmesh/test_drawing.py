from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from visionmesh.contracts import ClassScore, Detection, ErrorInfo, Result, Status
from visionmesh.drawing import colour_of, draw
from visionmesh.errors import Code

GREY = 90
Box = tuple[float, float, float, float]


def result(*boxes: Box, label: str = "cat", **more: object) -> Result:
    values: dict[str, object] = {"status": Status.OK, **more}
    if boxes:
        values["detections"] = [Detection(label=label, score=0.9, box=box) for box in boxes]
    return Result.model_validate({"id": "1", "source": "test", "model": "finder", **values})


def canvas(height: int = 400, width: int = 600) -> NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def painted(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return the first and last changed columns and rows: left, top, right, bottom."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_box_is_drawn_on_its_edges_in_the_colour_of_its_class() -> None:
    drawn = draw(canvas(), result((100, 120, 300, 260)))
    for x, y in [(200, 259), (100, 200), (299, 200), (299, 120)]:
        assert tuple(drawn[y, x]) == colour_of("cat")
    assert (drawn[140:240, 120:280] == GREY).all()


def test_the_image_itself_is_left_as_it_was() -> None:
    image = canvas()
    drawn = draw(image, result((100, 120, 300, 260)))
    assert (image == GREY).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == image.dtype


@pytest.mark.parametrize(
    "box", [(100, 120, 300, 260), (0, 0, 600, 400), (560, 0, 600, 30), (590, 390, 600, 400)]
)
def test_the_label_is_written_on_a_plate_within_the_image(box: Box) -> None:
    image = canvas()
    drawn = draw(image, result(box))
    colour = np.array(colour_of("cat"))
    plate = (drawn == colour).all(axis=2)
    # A name of eight letters covers more than the thin edges of these boxes do in its rows.
    assert plate.sum(axis=1).max() >= 40
    assert ((drawn != GREY).any(axis=2) & ~plate).sum() > 50, "there are letters on the plate"


def test_labels_tell_scores_apart() -> None:
    surer = draw(canvas(), result((100, 120, 300, 260)))
    less = result((100, 120, 300, 260))
    assert less.detections is not None
    unsure = less.detections[0].model_copy(update={"score": 0.1})
    less = less.model_copy(update={"detections": (unsure,)})
    assert (surer != draw(canvas(), less)).any()


def test_lines_grow_with_the_image() -> None:
    widths = []
    for scale in (1, 4):
        height, width = 300 * scale, 400 * scale
        drawn = draw(canvas(height, width), result((0.2 * width, 0.5 * height, width, height)))
        row = drawn[int(0.8 * height), : width // 2]
        widths.append((row != GREY).any(axis=1).sum())
    assert 1 <= widths[0] < widths[1]


def test_colours_of_classes_are_stable_and_differ() -> None:
    labels = ["open", "short", "mousebite", "spur", "copper", "pin-hole"]
    colours = {colour_of(label) for label in labels}
    assert len(colours) == len(labels)
    twice = subprocess.run(
        [sys.executable, "-c", "from visionmesh.drawing import *; print(colour_of('open'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert twice.stdout.strip() == str(colour_of("open"))


def test_classes_are_a_caption_with_one_line_each() -> None:
    image = canvas()
    one = [ClassScore(label="tabby", score=0.8)]
    three = [*one, ClassScore(label="lynx", score=0.1), ClassScore(label="fox", score=0.05)]
    left, top, _, bottom = painted(image, draw(image, result(classes=one)))
    assert (left, top) == (0, 0)
    _, _, _, lowest = painted(image, draw(image, result(classes=three)))
    assert lowest == pytest.approx(3 * bottom, abs=6)


@pytest.mark.parametrize("status", [Status.ERROR, Status.EXPIRED])
def test_what_went_wrong_is_a_caption(status: Status) -> None:
    image = canvas()
    error = ErrorInfo(code=Code.BROKEN_IMAGE, message="The JPEG ends in the middle. " * 9)
    left, top, right, bottom = painted(image, draw(image, result(status=status, error=error)))
    assert (left, top) == (0, 0)
    assert right < 600
    assert bottom < 60


def test_nothing_found_leaves_nothing_to_draw() -> None:
    assert (draw(canvas(), result(detections=())) == GREY).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (12, 12)])
@pytest.mark.parametrize("label", ["cat", "Gürteltier", "豹", "", "long " * 40])
def test_any_label_fits_any_image(shape: tuple[int, int], label: str) -> None:
    drawn = draw(canvas(*shape), result((0, 0, shape[1], shape[0]), label=label))
    assert drawn.shape == (*shape, 3)
    assert (drawn != GREY).any()


def test_accents_are_dropped_rather_than_garbled() -> None:
    accented = draw(canvas(), result(classes=[ClassScore(label="Löwe", score=0.5)]))
    plain = draw(canvas(), result(classes=[ClassScore(label="Lowe", score=0.5)]))
    assert painted(canvas(), accented) == painted(canvas(), plain)


def test_consumers_that_never_draw_need_no_opencv() -> None:
    code = "import sys; sys.modules['cv2'] = None; import visionmesh.drawing"
    subprocess.run([sys.executable, "-c", code], check=True)
