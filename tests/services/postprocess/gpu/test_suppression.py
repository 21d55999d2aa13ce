"""Suppression on a device keeps the boxes that `nms.suppress` keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.postprocess.decoders import Array
from services.postprocess.gpu.suppression import Suppression, scratch
from services.postprocess.nms import suppress
from tests.services.postprocess import reference
from visionmesh.gpu import Gpu

CLASSES = 4
_STATES, _CHOSEN, _KEPT = 5, 1, 4


class Scene:
    """Boxes of one image, those of equal scores among them."""

    def __init__(
        self, random: np.random.Generator, *, boxes: int, iou: float, least: float
    ) -> None:
        corners = random.uniform(0, 100, (boxes, 2)).round(1)
        sizes = random.uniform(-5, 60, (boxes, 2)).round(1)
        self.corners = np.concatenate((corners, corners + sizes), axis=1).astype(np.float32)
        self.scores = (random.integers(0, 33, boxes) / 32).astype(np.float32)
        self.scores[::2] *= np.where(self.scores[::2] == 0, -1, 1)  # a negative zero is a zero
        self.labels = random.integers(0, CLASSES, boxes).astype(np.int32)
        self.iou = iou
        self.least = np.full(CLASSES, least, np.float32)
        self.least[0] /= 2

    def kept(self, *, agnostic: bool) -> list[int]:
        sure = np.flatnonzero(self.scores >= self.least[self.labels])
        classes = np.zeros_like(self.labels) if agnostic else self.labels
        left = suppress(self.corners[sure], self.scores[sure], classes[sure], iou=self.iou)
        return [int(index) for index in sure[left]]


def run(gpu: Gpu, scenes: Sequence[Scene], *, agnostic: bool) -> list[list[int]]:
    """Return what the device keeps of each scene."""
    images, most = len(scenes), max(len(scene.scores) for scene in scenes)
    host: dict[str, Array] = {
        "corners": np.full((images, most, 4), np.nan, np.float32),
        "scores": np.full((images, most), 9, np.float32),
        "labels": np.full((images, most), -1, np.int32),
        "least": np.stack([scene.least for scene in scenes]),
        "iou": np.array([scene.iou for scene in scenes], np.float64),
        "states": np.zeros((images, _STATES), np.int32),
        "kept": np.full((images, most), -1, np.int32),
    }
    for image, scene in enumerate(scenes):
        count = len(scene.scores)
        host["states"][image, _CHOSEN] = count
        for name in ("corners", "scores", "labels"):
            host[name][image, :count] = getattr(scene, name)
    with gpu.stream() as stream:
        device = {name: gpu.xp.asarray(values) for name, values in host.items()}
        for meta in scratch(images, most):
            device[meta.name] = gpu.xp.full(meta.shape, 255, meta.dtype)
        Suppression(gpu=gpu)(device, agnostic=agnostic)
        for name in ("states", "kept"):
            gpu.download(device[name], host[name])
        stream.synchronize()
    return [host["kept"][image, : host["states"][image, _KEPT]].tolist() for image in range(images)]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(0, 150), min_size=1, max_size=4).filter(any),
    iou=st.sampled_from([0, 0.25, 0.5, 1]) | st.floats(0, 1),
    least=st.floats(0, 0.5),
    agnostic=st.booleans(),
)
def test_any_boxes(
    gpu: Gpu, *, seed: int, counts: list[int], iou: float, least: float, agnostic: bool
) -> None:
    random = np.random.default_rng(seed)
    scenes = [Scene(random, boxes=count, iou=iou, least=least) for count in counts]
    wanted = [scene.kept(agnostic=agnostic) for scene in scenes]
    assert run(gpu, scenes, agnostic=agnostic) == wanted


def test_as_one_would_explain_it(gpu: Gpu) -> None:
    scene = Scene(np.random.default_rng(3), boxes=90, iou=0.4, least=0)
    wanted = reference.suppress(
        scene.corners.tolist(), scene.scores.tolist(), scene.labels.tolist(), scene.iou
    )
    assert run(gpu, [scene], agnostic=False) == [wanted]


@pytest.mark.parametrize("iou", [0, 0.3, 0.8])
def test_as_many_boxes_as_there_may_be(gpu: Gpu, iou: float) -> None:
    random = np.random.default_rng(4)
    scenes = [Scene(random, boxes=count, iou=iou, least=0) for count in (1000, 64, 65, 999)]
    wanted = [scene.kept(agnostic=False) for scene in scenes]
    assert run(gpu, scenes, agnostic=False) == wanted


def test_a_chain_of_boxes_of_which_each_covers_the_next(gpu: Gpu) -> None:
    """Every other one stays, which is only known from the first one on."""
    scene = Scene(np.random.default_rng(5), boxes=300, iou=0.3, least=0)
    left = np.arange(300, dtype=np.float32)
    scene.corners = np.stack((left, 0 * left, left + 2, 0 * left + 1), axis=1)
    scene.scores = np.linspace(1, 0.1, 300, dtype=np.float32)
    scene.labels[:] = 2
    assert run(gpu, [scene], agnostic=False) == [list(range(0, 300, 2))]
