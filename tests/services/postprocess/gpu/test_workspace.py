"""Batches share memory, and nothing of one gets into another."""

from __future__ import annotations

import numpy as np

from bench.gpu.crowds import crowd
from services.postprocess.decoders import load_decoder
from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.gpu import Workspaces, load_reducer
from services.postprocess.gpu.yolov8 import yolov8
from tests.services.postprocess.reference import detector
from visionmesh.contracts import Params
from visionmesh.gpu import Gpu

SIZE = (640, 640)


def test_batches_of_models_take_turns_in_the_same_memory(gpu: Gpu) -> None:
    """What an earlier, larger batch left there is not seen."""
    random, workspaces = np.random.default_rng(8), Workspaces(gpu=gpu)
    decoders = [load_decoder(detector("yolov8", classes, size=SIZE)) for classes in (3, 50)]
    reducers = [load_reducer(workspaces, decoder) for decoder in decoders]
    for images in (5, 1, 3):
        for decoder, reducer, classes in zip(decoders, reducers, (3, 50), strict=True):
            assert reducer is not None
            outputs = [
                crowd(random, objects=30 * images, boxes=700 * images, classes=classes)
                for _ in range(images)
            ]
            found = reducer.reduce(
                [{"o": gpu.xp.asarray(output)} for output in outputs], [Params()] * images
            )
            for output, reduced in zip(outputs, found, strict=True):
                assert reduced is not None
                for name, values in decoder.reduce({"o": output}).items():
                    np.testing.assert_array_equal(reduced.features[name], values)


def test_batches_may_be_enqueued_before_the_last_one_came_home(gpu: Gpu) -> None:
    random, workspaces = np.random.default_rng(10), Workspaces(gpu=gpu)
    output = crowd(random, objects=200, boxes=8400, classes=3)
    decoder = YoloV8(detector("yolov8", 3, size=SIZE))
    reducer = yolov8(workspaces, decoder)
    count = len(decoder.reduce({"o": output})["scores"])
    with workspaces.borrow() as workspace:
        heads = [gpu.xp.asarray(output)] * 4
        for _ in range(10):
            home = reducer.enqueue(workspace, heads, [Params()] * 4)
        workspace.stream.synchronize()
        chosen = home["states"][:, 1].tolist()
    assert chosen == [count] * 4
