from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.postprocess.decoders import load_decoder
from services.postprocess.features import pack
from tests.services.postprocess import reference
from tests.services.postprocess.reference import Found, agree, detector, found
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject

DATA = Path(__file__).parents[5] / "shared/data"
NETWORK = DATA / "models/yolox_nano.onnx"
PHOTOS = sorted((DATA / "photos").glob("*.jpg"))

SIDE = 416
NANO = detector("yolox", 80, size=(SIDE, SIDE))
SMALL = detector("yolox", 3, size=(64, 32))
"""4 x 8 + 2 x 4 + 1 x 2 = 42 cells."""
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def silent(cells: int = 42, classes: int = 3) -> NDArray[np.float32]:
    return np.zeros((cells, 5 + classes), np.float32)


@pytest.mark.skipif(not PHOTOS, reason="the trained network (../shared/data) is not here")
def test_photos_are_answered_as_the_reference_does_at_every_confidence() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(NETWORK, options, providers=["CPUExecutionProvider"])
    decoder = load_decoder(NANO)
    objects = 0
    for photo in PHOTOS[::4]:
        output, placement, width, height = recognise(session, photo)
        features = decoder.reduce({"output": output})
        assert len(pack(features)) < 8 << 10
        for confidence in (decoder.floor, 0.25, 0.6):
            params = Params(confidence=confidence, iou=0.45)
            got = found(decoder.answer(features, params, placement, width, height))
            boxes = reference.yolox_boxes(output, (SIDE, SIDE), confidence)
            agree(
                got,
                reference.detections(
                    boxes, iou=0.45, placement=placement, width=width, height=height
                ),
            )
            objects += len(got)
    assert objects > 100


@pytest.mark.skipif(not PHOTOS, reason="the trained network (../shared/data) is not here")
@pytest.mark.parametrize(
    ("photo", "label"),
    [("n02002556_white_stork", 14), ("n02086240_Shih-Tzu", 16), ("n02091831_Saluki", 16)],
)
def test_the_animal_on_the_photo_is_found(photo: str, label: int) -> None:
    session = onnxruntime.InferenceSession(NETWORK, providers=["CPUExecutionProvider"])
    output, placement, width, height = recognise(session, DATA / f"photos/{photo}.jpg")
    decoder = load_decoder(NANO)
    best = found(
        decoder.answer(decoder.reduce({"output": output}), Params(), placement, width, height)
    )[0]
    assert (best.label, best.score > 0.8) == (label, True)
    left, top, right, bottom = best.box
    assert (right - left) * (bottom - top) > 0.1 * width * height


def recognise(
    session: onnxruntime.InferenceSession, photo: Path
) -> tuple[NDArray[np.float32], Placement, int, int]:
    pixels = cv2.imread(str(photo))
    assert pixels is not None
    height, width = pixels.shape[:2]
    scale = SIDE / max(width, height)
    small = cv2.resize(pixels, (round(width * scale), round(height * scale)))
    canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    batch = canvas.transpose(2, 0, 1)[None].astype(np.float32)
    output = session.run(None, {"images": batch})[0][0]
    placement = Placement(
        scale_x=small.shape[1] / width, scale_y=small.shape[0] / height, offset_x=0, offset_y=0
    )
    return output, placement, width, height


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.05, 0.95), st.floats(0.1, 0.9))
def test_any_output_is_answered_as_the_reference_does(
    seed: int, confidence: float, iou: float
) -> None:
    random = np.random.default_rng(seed)
    output = random.normal(size=(42, 8)).astype(np.float32)
    # Quarters make equal scores; their products are exact, so the order of ties is defined.
    output[:, 4:] = random.integers(0, 5, (42, 4)) / 4
    placement = Placement(scale_x=0.5, scale_y=0.25, offset_x=3, offset_y=-5)
    decoder = load_decoder(SMALL)
    got = decoder.answer(
        decoder.reduce({"output": output}),
        Params(confidence=confidence, iou=iou),
        placement,
        100,
        120,
    )
    boxes = reference.yolox_boxes(output, (64, 32), confidence)
    wanted = reference.detections(boxes, iou=iou, placement=placement, width=100, height=120)
    assume(not reference.slivers(wanted))
    agree(found(got), wanted)


def test_a_cell_speaks_of_its_own_place() -> None:
    output = silent()
    # The grids of strides 8 and 16 take 32 and 8 cells; this is the second of stride 32.
    output[41] = (0.5, 0.25, np.log(0.5), np.log(0.25), 0.5, 0, 0.5, 0)
    decoder = load_decoder(SMALL)
    answer = decoder.answer(decoder.reduce({"o": output}), Params(), IDENTITY, 64, 32)
    assert found(answer) == [Found(0.25, 1, (40.0, 4.0, 56.0, 12.0))]


def test_features_survive_the_memory_that_they_came_from() -> None:
    output = silent()
    output[:, 4:] = 0.5
    decoder = load_decoder(SMALL)
    features = decoder.reduce({"o": output})
    before = {name: array.copy() for name, array in features.items()}
    output[:] = 9
    for name, array in features.items():
        np.testing.assert_array_equal(array, before[name])


def test_half_precision_is_understood() -> None:
    output = silent()
    output[5] = (0.5, 0.5, 0, 0, 1, 1, 0, 0)
    decoder = load_decoder(SMALL)
    half = decoder.reduce({"o": output.astype(np.float16)})
    for name, array in decoder.reduce({"o": output}).items():
        assert half[name].dtype == array.dtype
        np.testing.assert_array_equal(half[name], array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", range(8))
def test_what_is_not_finite_is_refused(column: int, value: float) -> None:
    output = silent()
    output[7, 4:] = 0.9
    output[7, column] = value
    with pytest.raises(Reject) as caught:
        load_decoder(SMALL).reduce({"o": output})
    assert caught.value.code is Code.MODEL_FAILED


@pytest.mark.parametrize("column", [4, 5])
def test_scores_without_their_activation_are_refused(column: int) -> None:
    output = silent()
    output[7, 4:] = 0.9
    output[7, column] = 3.5
    with pytest.raises(Reject, match=r"3\.5"):
        load_decoder(SMALL).reduce({"o": output})


def test_a_box_without_size_is_dropped() -> None:
    output = silent()
    output[7] = (0, 0, -np.inf, 0, 0.9, 0.9, 0, 0)
    decoder = load_decoder(SMALL)
    assert found(decoder.answer(decoder.reduce({"o": output}), Params(), IDENTITY, 64, 32)) == []


def test_a_size_beyond_all_numbers_is_refused() -> None:
    output = silent()
    output[7] = (0, 0, 200, 0, 0.9, 0.9, 0, 0)
    with pytest.raises(Reject, match="finite"):
        load_decoder(SMALL).reduce({"o": output})


@pytest.mark.parametrize("shape", [(41, 8), (42, 9), (42, 5), (42,), (1, 42, 8)])
def test_outputs_that_do_not_fit_the_model_are_refused(shape: tuple[int, ...]) -> None:
    outputs: dict[str, NDArray[Any]] = {"o": np.zeros(shape, np.float32)}
    with pytest.raises(Reject, match="yolox wants") as caught:
        load_decoder(SMALL).reduce(outputs)
    assert caught.value.code is Code.MODEL_INVALID


def test_other_strides_make_other_grids() -> None:
    decoder = load_decoder(detector("yolox", 3, size=(64, 32), strides=[16]))
    output = silent(cells=8)
    output[6] = (0.5, 0.5, 0, 0, 1, 1, 0, 0)
    answer = decoder.answer(decoder.reduce({"o": output}), Params(), IDENTITY, 64, 32)
    assert found(answer) == [Found(1.0, 0, (32.0, 16.0, 48.0, 32.0))]
