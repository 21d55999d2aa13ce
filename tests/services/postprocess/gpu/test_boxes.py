"""A device finds in outputs what the decoders find there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.gpu.crowds import crowd, noise
from services.postprocess.decoders import Array, Decoder, load_decoder
from services.postprocess.decoders.candidates import MAX_CANDIDATES
from services.postprocess.gpu import DeviceReducer, Reduced, Workspaces, load_reducer
from services.postprocess.gpu.boxes import MAX_LISTED
from tests.services.postprocess import reference
from tests.services.postprocess.gpu.outputs import as_offsets, with_objectness
from tests.services.postprocess.reference import detector
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Reject
from visionmesh.gpu import Gpu

SIZE = (640, 640)
PLACEMENT = Placement(scale_x=0.5, scale_y=0.5, offset_x=0, offset_y=80)
CELLS = 8400
Precision = type[np.floating[Any]]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float16])
ON_FIXTURES = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""The device is the same for all examples."""


def load(gpu: Gpu, decoder: Decoder) -> DeviceReducer:
    reducer = load_reducer(Workspaces(gpu=gpu), decoder)
    assert reducer is not None
    return reducer


def reduce(
    gpu: Gpu, reducer: DeviceReducer, outputs: Sequence[Array], params: Sequence[Params]
) -> Sequence[Reduced | None]:
    return reducer.reduce([{"o": gpu.xp.asarray(one)} for one in outputs], params)


def agree(
    gpu: Gpu,
    decoder: Decoder,
    outputs: Sequence[Array],
    params: Sequence[Params],
    *,
    rounding: float = 0,
) -> None:
    """Assert that device and decoder say the same of each image, the boxes up to ``rounding``."""
    reducer = load(gpu, decoder)
    for output, wish, reduced in zip(
        outputs, params, reduce(gpu, reducer, outputs, params), strict=True
    ):
        assert reduced is not None
        wanted = decoder.reduce({"o": output})
        assert reduced.features.keys() == wanted.keys()
        for name, values in wanted.items():
            assert reduced.features[name].dtype == values.dtype
            np.testing.assert_allclose(
                reduced.features[name], values, rtol=0, atol=rounding if name == "boxes" else 0
            )
        answer = reduced.answer(wish, PLACEMENT, 1280, 960)
        expected = decoder.answer(wanted, wish, PLACEMENT, 1280, 960)
        if rounding:
            reference.agree(reference.found(answer), reference.found(expected))
        else:
            assert answer == expected


@DTYPES
@pytest.mark.parametrize("classes", [1, 3, 80])
@pytest.mark.parametrize("objects", [1, 12, 400])
def test_boxes_without_objectness(gpu: Gpu, dtype: Precision, classes: int, objects: int) -> None:
    random = np.random.default_rng(objects)
    outputs = [
        crowd(random, objects=objects, boxes=CELLS, classes=classes).astype(dtype) for _ in range(3)
    ]
    params = [Params(), Params(confidence=0.05, iou=0.9), Params(max_detections=3)]
    agree(gpu, load_decoder(detector("yolov8", classes, size=SIZE)), outputs, params)


@DTYPES
@pytest.mark.parametrize("classes", [1, 80])
@pytest.mark.parametrize("normalized", [False, True])
def test_boxes_with_objectness(gpu: Gpu, dtype: Precision, classes: int, normalized: bool) -> None:
    random = np.random.default_rng(classes)
    outputs: list[Array] = []
    for objects in (5, 300):
        output = with_objectness(
            random, crowd(random, objects=objects, boxes=25200, classes=classes)
        )
        output[:, :4] /= 640 if normalized else 1
        outputs.append(output.astype(dtype))
    spec = detector("yolov5", classes, size=SIZE, normalized=normalized)
    agree(gpu, load_decoder(spec), outputs, [Params(), Params(confidence=0.1)])


@DTYPES
def test_boxes_of_grids(gpu: Gpu, dtype: Precision) -> None:
    """The exponentials of C and of NumPy differ in the last place."""
    random = np.random.default_rng(6)
    outputs = [
        as_offsets(
            with_objectness(random, crowd(random, objects=objects, boxes=CELLS, classes=7))
        ).astype(dtype)
        for objects in (4, 200)
    ]
    decoder = load_decoder(detector("yolox", 7, size=SIZE))
    agree(gpu, decoder, outputs, [Params(), Params(iou=0.2)], rounding=2e-4)


@DTYPES
@pytest.mark.parametrize("name", ["yolov8", "yolov5"])
def test_of_more_candidates_than_are_kept_the_strongest_are_taken(
    gpu: Gpu, dtype: Precision, name: str
) -> None:
    random = np.random.default_rng(7)
    output = noise(random, boxes=CELLS, classes=20)
    if name == "yolov5":
        output = with_objectness(random, output)
    decoder = load_decoder(detector(name, 20, size=SIZE))
    assert len(decoder.reduce({"o": output})["scores"]) == MAX_CANDIDATES
    agree(gpu, decoder, [output.astype(dtype)] * 2, [Params(), Params(confidence=0.97, iou=0.1)])


@ON_FIXTURES
@given(
    seed=st.integers(0, 2**32),
    boxes=st.integers(1, 300),
    classes=st.integers(1, 9),
    floor=st.sampled_from([0, 0.05, 0.5, 1]),
    wish=st.builds(
        Params,
        confidence=st.none() | st.floats(0, 1),
        iou=st.none() | st.floats(0, 1),
    ),
    nms=st.sampled_from(["per_class", "agnostic", "soft", "none"]),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_any_output(
    gpu: Gpu,
    *,
    seed: int,
    boxes: int,
    classes: int,
    floor: float,
    wish: Params,
    nms: str,
    dtype: Precision,
) -> None:
    """Scores of eighths are often equal, and often just the floor; boxes may have no area."""
    random = np.random.default_rng(seed)
    output = np.concatenate(
        (
            random.uniform(0, 64, (2, boxes)).round(1),
            random.integers(-1, 40, (2, boxes)),
            random.integers(0, 9, (classes, boxes)) / 8,
        )
    ).astype(dtype)
    spec = detector(
        "yolov8", classes, size=(64, 48), floor=floor, nms=nms, class_confidence={"c0": 0.4}
    )
    agree(gpu, load_decoder(spec), [output, output[:, ::-1].copy()], [wish, Params()])


def test_scores_at_the_floor_are_as_near_to_it_as_for_the_decoder(gpu: Gpu) -> None:
    """In half precision 0.05 is a little less, and a product of two scores is single precision."""
    floor = np.float16(0.05)
    near = [np.nextafter(floor, np.float16(way)) for way in (0, 1)]
    output = np.full((5, 3), 200, np.float16)
    output[4] = floor, *near
    agree(gpu, load_decoder(detector("yolov8", 1, size=SIZE)), [output], [Params(confidence=0)])
    output = np.full((3, 6), 200, np.float16)
    output[:, 4], output[:, 5] = (floor, *near), 1
    agree(gpu, load_decoder(detector("yolov5", 1, size=SIZE)), [output], [Params(confidence=0)])


def test_scores_that_are_a_little_above_1_count_as_1(gpu: Gpu) -> None:
    """Of two boxes that cover each other the first stays, as both are as sure as can be."""
    output = np.full((5, 2), 300, np.float32)
    output[0, 1], output[4] = 310, (1, 1.0005)
    agree(gpu, load_decoder(detector("yolov8", 1, size=SIZE)), [output], [Params(iou=0.1)])


def test_a_negative_zero_is_no_more_than_a_zero(gpu: Gpu) -> None:
    output = np.full((5, MAX_CANDIDATES + 9), 8, np.float32)
    output[4] = np.linspace(0, 1, MAX_CANDIDATES + 9)
    output[4, ::50] = -0.0
    decoder = load_decoder(detector("yolov8", 1, size=SIZE, floor=0))
    agree(gpu, decoder, [output], [Params(confidence=0)])


def test_nothing_is_found_in_an_output_that_says_nothing(gpu: Gpu) -> None:
    output = np.zeros((84, 1001), np.float16)
    agree(gpu, load_decoder(detector("yolov8", 80, size=SIZE)), [output], [Params()])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
@pytest.mark.parametrize("place", [*range(7), slice(4, 7)], ids=str)
@pytest.mark.parametrize("others", [0.5, 0.01], ids=["found", "background"])
@pytest.mark.parametrize("name", ["yolov8", "yolov5"])
def test_what_a_decoder_refuses_is_left_to_it(
    gpu: Gpu, *, name: str, others: float, place: int | slice, value: float
) -> None:
    """An image that is not sound does not take its neighbours along."""
    sound = np.full((7, 300), others, np.float32)
    broken = sound.copy()
    broken[place, 299] = value
    outputs = [sound, broken, sound]
    if name == "yolov5":
        outputs = [np.ascontiguousarray(one.T) for one in outputs]
    decoder = load_decoder(detector(name, 3 if name == "yolov8" else 2, size=SIZE))
    found = reduce(gpu, load(gpu, decoder), outputs, [Params()] * 3)
    assert found[0] is not None
    assert found[2] is not None
    try:
        decoder.reduce({"o": outputs[1]})
    except Reject:
        assert found[1] is None
    else:
        assert found[1] is not None


def test_a_network_that_is_sure_of_too_many_boxes_is_left_to_the_decoder(gpu: Gpu) -> None:
    output = np.full((5, MAX_LISTED + 1), 0.5, np.float32)
    reducer = load(gpu, load_decoder(detector("yolov8", 1, size=SIZE)))
    assert reduce(gpu, reducer, [output], [Params()]) == [None]


@pytest.mark.parametrize(
    "output",
    [
        np.zeros((84, 10), np.float64),
        np.zeros((84, 0), np.float32),
        np.zeros((83, 10), np.float32),
        np.zeros((1, 84, 10), np.float32),
    ],
    ids=["float64", "empty", "classes", "dimensions"],
)
def test_outputs_that_are_of_another_kind_are_left_to_the_decoder(gpu: Gpu, output: Array) -> None:
    reducer = load(gpu, load_decoder(detector("yolov8", 80, size=SIZE)))
    assert reduce(gpu, reducer, [output, output], [Params()] * 2) == [None, None]


def test_what_the_device_suppressed_is_not_suppressed_again(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = crowd(np.random.default_rng(9), objects=40, boxes=CELLS, classes=3)
    decoder = load_decoder(detector("yolov8", 3, size=SIZE))
    expected = decoder.answer(decoder.reduce({"o": output}), Params(), PLACEMENT, 1280, 960)
    monkeypatch.setattr("services.postprocess.decoders.candidates.suppress", None)
    (reduced,) = reduce(gpu, load(gpu, decoder), [output], [Params()])
    assert reduced is not None
    assert reduced.answer(Params(), PLACEMENT, 1280, 960) == expected


def test_other_decoders_have_no_reducer(gpu: Gpu) -> None:
    decoder = load_decoder(detector("end2end", 3, size=SIZE))
    assert load_reducer(Workspaces(gpu=gpu), decoder) is None
