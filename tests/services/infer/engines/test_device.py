"""Engines on a device say what those on the host say, wherever the images lie."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.infer.engines import Engine, Image, device, open_engines
from services.infer.engines.device import DeviceEngine
from services.infer.engines.gather import Gather
from services.infer.engines.host import NetworkError
from services.infer.pixels import PixelWriter
from tests.networks import expected, save_network, spoil_network
from tests.services.infer.engines.samples import Array, images_of, planar, spec_of
from visionmesh.errors import ConfigurationError, Fatal, Reject, Retry
from visionmesh.gpu import Gpu, GpuError, Stream
from visionmesh.gpu.gpu import DeviceArray, GpuLostError, GpuMemoryError
from visionmesh.models.spec import InputSpec, Instance, ModelSpec


def on_device(gpu: Gpu, images: Sequence[Array], *, at: int = 0) -> list[DeviceArray]:
    """Return copies in memory of the device that others could map, ``at`` bytes from its start."""
    placed = []
    for image in images:
        memory = gpu.share(at + image.nbytes).array[at:]
        with gpu.stream() as stream:
            gpu.upload(np.ascontiguousarray(image), memory)
            stream.synchronize()
        placed.append(memory.view(image.dtype).reshape(image.shape))
    return placed


def fetched(gpu: Gpu, array: DeviceArray) -> Array:
    host = np.empty(array.shape, array.dtype)
    with gpu.stream() as stream:
        gpu.download(array, host)
        stream.synchronize()
    return host


INPUTS = [
    InputSpec(width=width, height=9, layout=layout, dtype=dtype, color=color, **affine)
    for width in (16, 7)
    for layout in ("NCHW", "NHWC")
    for dtype in ("float32", "float16", "uint8")
    for color, affine in (
        ("RGB", {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
        ("BGR", {}),
        ("GRAY", {"mean": (127.5,), "std": (63.7,)}),
    )
]


@pytest.mark.parametrize(
    "spec", INPUTS, ids=[f"{s.width}-{s.layout}-{s.dtype}-{s.color}" for s in INPUTS]
)
def test_images_are_normalised_on_the_device_as_on_the_host(gpu: Gpu, spec: InputSpec) -> None:
    writer = PixelWriter(spec)
    host = images_of(5, spec=spec)
    right = writer.batch(8)
    for image, target in zip(host, right, strict=False):
        writer.write(image, target)
    own = right[4].copy()
    (aligned,) = on_device(gpu, host[1:2])
    (shifted,) = on_device(gpu, host[2:3], at=3)
    (own_there,) = on_device(gpu, [right[3]])
    with gpu.stream() as stream:
        gather = Gather(gpu=gpu, spec=spec, most=8)
        batch = gather.batch(8)
        batch[...] = 7
        gather([host[0], aligned, shifted, own_there, own], batch)
        stream.synchronize()
    np.testing.assert_array_equal(fetched(gpu, batch), right)


def engines_of(device: str, file: Path, spec: ModelSpec, **more: Any) -> tuple[Engine, ...]:
    return open_engines(file, spec, Instance(device=device, **more), count=2)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_a_network_answers_as_on_the_host(
    gpu_device: str, gpu: Gpu, tmp_path: Path, dtype: str, count: int
) -> None:
    kinds = {"float32": 1, "float16": 10, "uint8": 2}
    file = save_network(tmp_path / "m.onnx", seed=3, dtype=kinds[dtype])
    spec = spec_of(dtype=dtype)
    first, second = engines_of(gpu_device, file, spec)
    (host,) = open_engines(file, spec, Instance(), count=1)
    images = images_of(count)
    for engine in (first, second):
        engine.warm()
        assert engine.batch_sizes == (1, 2, 4)
        mixed = [*images[:1], *on_device(gpu, images[1:])]
        answer = engine.run(mixed)["scores"]
        assert isinstance(answer, np.ndarray)
        assert answer.shape == (count, 4)
        np.testing.assert_allclose(answer, host.run(images)["scores"], rtol=1e-5, atol=1e-3)
    first.close()
    np.testing.assert_allclose(second.run(images)["scores"], answer, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("fixed", "count"), [(1, 1), (4, 1), (4, 3), (4, 4)])
def test_a_fixed_batch_is_filled_up(
    gpu_device: str, tmp_path: Path, fixed: int, count: int
) -> None:
    file = save_network(tmp_path / "m.onnx", shape=(fixed, 3, 8, 6), seed=3)
    engine, _ = engines_of(gpu_device, file, spec_of(max_size=2))
    engine.warm()
    images = images_of(count)
    assert engine.batch_sizes == (fixed,)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), 3), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("home", [True, False])
def test_outputs_stay_what_they_are_when_the_engine_runs_again(
    gpu_device: str, gpu: Gpu, tmp_path: Path, home: bool
) -> None:
    engine, _ = engines_of(gpu_device, save_network(tmp_path / "m.onnx"), spec_of())
    first = engine.run(images_of(2, seed=1), home=home)["scores"]
    assert isinstance(first, np.ndarray if home else gpu.xp.ndarray)
    before = fetched(gpu, first) if not home else first.copy()
    engine.run(images_of(2, seed=2), home=home)
    after = fetched(gpu, first) if not home else first
    np.testing.assert_array_equal(after, before)


def test_a_network_that_does_not_run_is_found_by_warming(gpu_device: str, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx")
    spoil_network(file)
    engine, _ = engines_of(gpu_device, file, spec_of())
    with pytest.raises(ConfigurationError, match=r"does not run with a batch of [12]"):
        engine.warm()


class Doubling:
    """Says twice the first pixel of each image, unless a test has it fail."""

    def __init__(self, gpu: Gpu, *sizes: int) -> None:
        self.batch_sizes = sizes
        self._gpu = gpu
        self.room = sizes[-1]
        self.error: Exception | None = None
        self.ran: list[int] = []
        self.closed = False

    def __call__(self, images: DeviceArray, stream: Stream) -> dict[str, DeviceArray]:
        self.ran.append(len(images))
        if len(images) > self.room:
            raise GpuMemoryError(f"{len(images)} are too many")
        if self.error is not None:
            raise self.error
        return {"double": images[:, :1, 0, 0] * 2, "same": images}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def doubling(gpu: Gpu) -> Doubling:
    return Doubling(gpu, 1, 2, 4, 8)


@pytest.fixture
def engine(gpu: Gpu, doubling: Doubling) -> DeviceEngine:
    return DeviceEngine(gpu=gpu, network=doubling, spec=spec_of(max_size=8))


@pytest.mark.parametrize("home", [True, False])
def test_where_memory_lacks_the_largest_batch_is_halved_and_all_images_are_answered(
    gpu: Gpu, engine: DeviceEngine, doubling: Doubling, home: bool
) -> None:
    engine.warm()
    doubling.ran.clear()
    doubling.room = 3
    images = images_of(7)
    outputs = engine.run(images, home=home)
    assert engine.batch_sizes == (1, 2)
    assert doubling.ran == [8, 4, 2, 2, 2, 1]
    doubles = outputs["double"] if home else fetched(gpu, outputs["double"])
    assert doubles[:, 0].tolist() == [2.0 * image[0, 0, 0] for image in images]
    assert outputs["same"].shape == (7, 3, 8, 6)


def test_batches_grow_again_after_a_while_to_what_could_be_warmed(
    engine: DeviceEngine, doubling: Doubling, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubling.room = 4
    engine.warm()
    monkeypatch.setattr(device, "_TO_GROW", timedelta())
    doubling.room = 1
    assert engine.run(images_of(4))["double"].shape == (4, 1)
    assert doubling.ran[-5:] == [2, 1, 1, 1, 1]
    doubling.room = 8
    engine.run(images_of(1))
    assert engine.batch_sizes == (1, 2, 4)
    doubling.ran.clear()
    engine.run(images_of(4))
    assert doubling.ran == [4]


def test_without_memory_for_one_image_it_is_tried_again_later(
    engine: DeviceEngine, doubling: Doubling
) -> None:
    doubling.room = 0
    with pytest.raises(Retry, match="are too many"):
        engine.run(images_of(8))
    doubling.room = 1
    assert engine.run(images_of(1))["double"].shape == (1, 1)


def test_batches_that_memory_does_not_hold_are_not_offered(
    engine: DeviceEngine, doubling: Doubling
) -> None:
    doubling.room = 4
    engine.warm()
    assert engine.batch_sizes == (1, 2, 4)


class Choosy(Doubling):
    """Refuses images that begin with 200."""

    def __call__(self, images: DeviceArray, stream: Stream) -> dict[str, DeviceArray]:
        if (images[:, 0, 0, 0] == 200).any():
            raise NetworkError("200 is too bright")
        return super().__call__(images, stream)


def test_an_image_that_the_network_cannot_work_on_is_rejected(gpu: Gpu) -> None:
    engine = DeviceEngine(gpu=gpu, network=Choosy(gpu, 1, 2, 4), spec=spec_of())
    bad: list[Image] = [np.full((8, 6, 3), 200, np.uint8)]
    with pytest.raises(Reject, match="fails on the image: 200 is too bright"):
        engine.run([*bad, *images_of(2)])
    assert engine.run(images_of(3))["double"].shape == (3, 1)


@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (NetworkError("nothing goes"), Fatal, "does not work any more: nothing goes"),
        (GpuError("a failed launch"), Fatal, "does not work any more: a failed launch"),
        (GpuLostError("an illegal address"), Fatal, "is lost to this process: an illegal address"),
    ],
)
def test_a_network_that_does_not_even_run_on_an_empty_image_ends_the_worker(
    engine: DeviceEngine,
    doubling: Doubling,
    error: Exception,
    raised: type[Exception],
    match: str,
) -> None:
    doubling.error = error
    with pytest.raises(raised, match=match):
        engine.run(images_of(1))


class Flaky(Doubling):
    """Fails on the device once, whatever the images are."""

    def __call__(self, images: DeviceArray, stream: Stream) -> dict[str, DeviceArray]:
        if not self.ran:
            self.ran.append(0)
            raise GpuError("somebody records a graph")
        return super().__call__(images, stream)


def test_images_are_not_blamed_for_what_only_the_device_could_not_do(gpu: Gpu) -> None:
    engine = DeviceEngine(gpu=gpu, network=Flaky(gpu, 1, 2), spec=spec_of())
    with pytest.raises(Retry, match="somebody records a graph"):
        engine.run(images_of(1))


def test_a_closed_engine_closes_its_network(engine: DeviceEngine, doubling: Doubling) -> None:
    engine.close()
    assert doubling.closed
