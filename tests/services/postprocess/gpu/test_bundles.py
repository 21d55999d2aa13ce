"""What of a bundle lies on a device is reduced there, and all else is left to the decoders."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from bench.gpu.crowds import crowd
from services.postprocess.decoders import Array, Decoder, load_decoder
from services.postprocess.gpu.bundles import Bundles
from tests.references import make_reference
from tests.services.postprocess.reference import detector
from visionmesh.contracts import InlineLocation, Params, Placement
from visionmesh.errors import Fatal
from visionmesh.gpu import Gpu, GpuError
from visionmesh.gpu.copier import Copier
from visionmesh.gpu.gpu import GpuLostError, GpuMemoryError
from visionmesh.handover import lay_out
from visionmesh.settings import TracingSettings
from visionmesh.stage import Item
from visionmesh.telemetry.spans import SpanName
from visionmesh.telemetry.tracing import Tracing
from visionmesh.tensors import DeviceArena, DeviceReading, Reader
from visionmesh.trail import Trail

SHM = Path("/dev/shm")
PLACEMENT = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)
MODELS = {"finder": 3, "other": 5}
"""Models and their classes."""
KEYS = {name: (name, 1) for name in MODELS}
Put = Callable[[str, Array], Item]


@pytest.fixture
def arena(gpu: Gpu) -> Iterator[DeviceArena]:
    arena = DeviceArena(
        gpu=gpu,
        directory=SHM,
        name=f"visionmesh-test-{uuid.uuid4().hex[:12]}",
        size=4 << 20,
        lease=timedelta(hours=1),
    )
    yield arena
    arena.close()


@pytest.fixture
def decoders() -> dict[str, Decoder]:
    return {
        name: load_decoder(detector("yolov8", classes, size=(640, 640)))
        for name, classes in MODELS.items()
    }


@pytest.fixture
def counted() -> Counter[tuple[str, str]]:
    return Counter()


@pytest.fixture
async def bundles(
    gpu: Gpu, decoders: dict[str, Decoder], counted: Counter[tuple[str, str]]
) -> Bundles:
    """Ready for all models."""

    def count(model: str, outcome: str, images: int) -> None:
        counted[model, outcome] += images

    bundles = Bundles(gpu=gpu, count=count)
    await bundles.load({KEYS[name]: decoder for name, decoder in decoders.items()})
    return bundles


@pytest.fixture
def put(arena: DeviceArena) -> Put:
    """Lays an output of a model out on the device, and returns the image as a stage gets it."""
    reader = Reader(directory=SHM, on_refused=lambda uuid, why: pytest.fail(f"{uuid}: {why}"))
    tracing = Tracing(
        settings=TracingSettings(), service="t", node="n", state_dir=None, environment={}
    )

    def put(model: str, output: Array) -> Item:
        slot = arena.reserve(output.nbytes)
        assert slot is not None
        metas = lay_out({"o": output}, slot, Copier(arena.gpu))
        reference = make_reference(
            model=model,
            tensors=metas,
            location=slot.commit(),
            placement=PLACEMENT,
            params=Params(confidence=0.3),
        )
        trail = Trail(tracing=tracing, stage="postprocess", stream="OUTPUTS", reference=reference)
        return Item(reference, reader.read(reference.location, memoryview(b"")), trail)

    return put


async def test_a_bundle_of_several_models_and_shapes(
    bundles: Bundles, decoders: dict[str, Decoder], put: Put, counted: Counter[tuple[str, str]]
) -> None:
    random = np.random.default_rng(1)
    outputs = [
        (name, crowd(random, objects=20, boxes=boxes, classes=MODELS[name]).astype(dtype))
        for name in ("finder", "other", "finder")
        for boxes in (500, 701)
        for dtype in (np.float32, np.float16)
    ]
    items = [put(name, output) for name, output in outputs]
    found = await bundles.reduce(items)
    for item, (name, output) in zip(items, outputs, strict=True):
        reduced, features = found[id(item)], decoders[name].reduce({"o": output})
        for column, values in features.items():
            np.testing.assert_array_equal(reduced.features[column], values)
        wish = item.reference.params
        assert reduced.answer(wish, PLACEMENT, 640, 640) == decoders[name].answer(
            features, wish, PLACEMENT, 640, 640
        )
    assert counted == {("finder", "reduced"): 8, ("other", "reduced"): 4}


async def test_what_only_the_decoder_can_read_has_come_home(
    bundles: Bundles, put: Put, counted: Counter[tuple[str, str]]
) -> None:
    sound = np.full((7, 9), 0.5, np.float32)
    broken = sound.copy()
    broken[5, 3] = np.nan
    items = [put("finder", sound), put("finder", broken), put("strange", sound)]
    assert (await bundles.reduce(items)).keys() == {id(items[0])}
    assert counted == {("finder", "reduced"): 1, ("finder", "home"): 1, ("strange", "home"): 1}
    for item, output in zip(items[1:], (broken, sound), strict=True):
        assert bytes(item.reading.view) == output.tobytes()


async def test_what_lies_in_the_hosts_memory_is_not_touched(
    bundles: Bundles, put: Put, counted: Counter[tuple[str, str]]
) -> None:
    item = put("finder", np.full((7, 9), 0.5, np.float32))
    body = memoryview(bytes(item.reading.view))
    here = InlineLocation(offset=0, length=len(body))
    reader = Reader(directory=SHM, on_refused=lambda uuid, why: pytest.fail(f"{uuid}: {why}"))
    item.reading = reader.read(here, body)
    assert await bundles.reduce([item]) == {}
    assert not counted


async def test_what_lies_on_another_device_comes_home(
    bundles: Bundles,
    put: Put,
    gpu: Gpu,
    counted: Counter[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No kernel may be given its addresses."""
    output = np.full((7, 9), 0.5, np.float32)
    item, other = put("finder", output), put("finder", output)
    assert isinstance(other.reading, DeviceReading)
    foreign = gpu.address(other.reading.device)
    holds = type(gpu).holds
    monkeypatch.setattr(
        type(gpu), "holds", lambda self, a: holds(self, a) and self.address(a) != foreign
    )
    assert (await bundles.reduce([item, other])).keys() == {id(item)}
    assert counted == {("finder", "reduced"): 1, ("finder", "home"): 1}
    assert bytes(other.reading.view) == output.tobytes()


async def test_images_that_are_reduced_together_have_the_same_time(
    bundles: Bundles, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[Trail, str, int, int]] = []
    monkeypatch.setattr(Trail, "step", lambda *step: steps.append(step))
    sound, broken = np.full((7, 9), 0.5, np.float32), np.full((7, 9), np.nan, np.float32)
    items = [put("finder", sound), put("finder", sound), put("finder", broken)]
    await bundles.reduce(items)
    assert [trail for trail, *_ in steps] == [item.trail for item in items[:2]]
    assert {name for _, name, _, _ in steps} == {SpanName.DECODE_OUTPUTS}
    ((began, ended),) = {(began, ended) for _, _, began, ended in steps}
    assert began < ended


async def test_a_model_that_is_gone_is_reduced_no_more(bundles: Bundles, put: Put) -> None:
    bundles.forget("finder")
    item = put("finder", np.full((7, 9), 0.5, np.float32))
    assert await bundles.reduce([item]) == {}


@pytest.mark.parametrize("error", [GpuError("it failed"), GpuMemoryError("it is full")])
async def test_a_device_that_fails_leaves_all_to_the_decoders(
    bundles: Bundles, put: Put, monkeypatch: pytest.MonkeyPatch, error: GpuError
) -> None:
    items = [put("finder", np.full((7, 9), 0.5, np.float32)) for _ in range(2)]
    fail_with(monkeypatch, error)
    assert await bundles.reduce(items) == {}
    assert all(len(item.reading.view) == 7 * 9 * 4 for item in items)


async def test_a_device_that_is_lost_ends_the_worker(
    bundles: Bundles, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = put("finder", np.full((7, 9), 0.5, np.float32))
    fail_with(monkeypatch, GpuLostError("an illegal address"))
    with pytest.raises(Fatal, match="illegal address"):
        await bundles.reduce([item])


def fail_with(monkeypatch: pytest.MonkeyPatch, error: GpuError) -> None:
    """Let the device fail at the next batch."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("services.postprocess.gpu.workspace.Workspace.lay_out", fail)
