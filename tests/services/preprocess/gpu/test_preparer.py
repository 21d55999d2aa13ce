"""What a GPU prepares is what the CPU prepares, wherever it was decoded and is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from services.preprocess.formats.header import Color, Data
from services.preprocess.gpu import bench as workbench
from services.preprocess.gpu.decoding import JpegDecoder, OnDevice, open_jpeg_decoder
from tests.services.preprocess.gpu.decoders import TurboDecoder
from tests.services.preprocess.gpu.places import Counted, Place, by_cpu, job, preparer
from tests.services.preprocess.kinds import ALL_KINDS, PHOTO
from tests.services.preprocess.pictures import encode, photo, scene, turned
from visionmesh.contracts import PIXELS, TensorMeta
from visionmesh.errors import Code, Fatal, Reject, Retry
from visionmesh.gpu import Gpu, GpuError, Stream
from visionmesh.gpu.gpu import GpuLostError
from visionmesh.models.spec import InputSpec, Resize


@pytest.fixture
def place(gpu: Gpu, tmp_path: Path) -> Iterator[Place]:
    found = Place(gpu, tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("resize", list(Resize))
def test_without_a_decoder_every_bit_is_the_cpus(
    gpu: Gpu,
    place: Place,
    *,
    where: str,
    color: Literal["RGB", "BGR", "GRAY"],
    resize: Resize,
) -> None:
    spec = InputSpec(width=97, height=64, color=color, resize=resize)
    jobs = [job(place, data, spec, where) for data in ALL_KINDS.values()]
    counted = Counted()
    found = preparer(gpu, counted, lambda _: None).prepare(jobs)
    for name, one, outcome in zip(ALL_KINDS, jobs, found, strict=True):
        pixels, expected = by_cpu(place, one)
        assert outcome == expected, name
        np.testing.assert_array_equal(place.look(one), pixels, err_msg=name)
    assert counted == {("host", "absent"): 7, ("host", "format"): 8}


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_what_the_device_decodes_is_fitted_where_it_lies(
    gpu: Gpu, place: Place, *, where: str, color: Literal["RGB", "BGR", "GRAY"]
) -> None:
    spec = InputSpec(width=160, height=144, color=color)
    given = [turned(photo(), "JPEG", orientation) for orientation in range(1, 9)]
    jobs = [job(place, data, spec, where) for data in given]
    counted = Counted()
    found = preparer(gpu, counted).prepare(jobs)
    for one, outcome in zip(jobs, found, strict=True):
        pixels, expected = by_cpu(place, one)
        assert outcome == expected
        np.testing.assert_array_equal(place.look(one), pixels)
    assert counted == {("device", ""): 8}


def test_of_a_mixed_bundle_each_image_goes_its_own_way(gpu: Gpu, place: Place) -> None:
    jobs = [
        job(place, data, where=("device", "host")[n % 2])
        for n, data in enumerate(ALL_KINDS.values())
    ]
    counted = Counted()
    found = preparer(gpu, counted).prepare(jobs)
    assert counted == {("device", ""): 5, ("host", "kind"): 2, ("host", "format"): 8}
    for one, outcome in zip(jobs, found, strict=True):
        pixels, expected = by_cpu(place, one)
        assert outcome == expected
        # Decoded to a part of its size on the CPU, averaged over squares on the device.
        assert np.abs(place.look(one).astype(int) - pixels).mean() < 2


@pytest.mark.parametrize("size", [(960, 540), (800, 600), (450, 1000), (1200, 950)])
def test_a_large_jpeg_is_much_as_if_decoded_to_a_part(
    gpu: Gpu, place: Place, size: tuple[int, int]
) -> None:
    spec = InputSpec(width=160, height=160)
    noisy = np.random.default_rng(11).normal(scale=25, size=(size[1], size[0], 1))
    pixels = np.clip(scene(*size) + noisy, 0, 255).astype(np.uint8)
    one = job(place, encode(Image.fromarray(pixels), "JPEG", quality=95), spec)
    preparer(gpu, Counted()).prepare([one])
    expected, _ = by_cpu(place, one)
    # Sampled without averaging it would be 4 to 14.
    assert np.abs(place.look(one).astype(int) - expected).mean() < 1


@pytest.mark.parametrize("decoder", [TurboDecoder, lambda _: None], ids=["device", "host"])
def test_what_is_refused_is_refused_as_on_the_cpu(
    gpu: Gpu, place: Place, decoder: Callable[[Gpu], JpegDecoder | None]
) -> None:
    damaged = bytearray(PHOTO)
    damaged[len(damaged) // 2 : -2] = b""
    bad = [
        b"",
        b"no image at all",
        b"GIF89a" + bytes(20),
        PHOTO[: len(PHOTO) // 2],
        bytes(damaged),
        PHOTO[:30],
        ALL_KINDS["png"][:-40],
        encode(Image.new("RGB", (2500, 2001)), "JPEG"),
    ]
    jobs = [job(place, data) for data in (PHOTO, *bad, ALL_KINDS["png"])]
    found = preparer(gpu, Counted(), decoder).prepare(jobs)
    for one, outcome in zip(jobs, found, strict=True):
        pixels, expected = by_cpu(place, one)
        if isinstance(expected, Reject):
            assert isinstance(outcome, Reject)
            assert (outcome.code, outcome.message) == (expected.code, expected.message)
        else:
            assert outcome == expected
            np.testing.assert_array_equal(place.look(one), pixels)
    assert sum(isinstance(outcome, Reject) for outcome in found) == len(bad)
    assert {outcome.code for outcome in found if isinstance(outcome, Reject)} == {
        *(Code.EMPTY_BODY, Code.NOT_AN_IMAGE, Code.UNSUPPORTED_FORMAT),
        *(Code.BROKEN_IMAGE, Code.IMAGE_TOO_LARGE),
    }


def test_what_the_decoder_fails_at_goes_through_the_host(gpu: Gpu, place: Place) -> None:
    class Failing(TurboDecoder):
        def decode(
            self, encoded: Sequence[Data], color: Color, stream: Stream
        ) -> list[OnDevice | None]:
            decoded = super().decode(encoded, color, stream)
            return [None if n % 2 else one for n, one in enumerate(decoded)]

    counted = Counted()
    jobs = [job(place, PHOTO) for _ in range(5)]
    preparer(gpu, counted, Failing).prepare(jobs)
    expected, _ = by_cpu(place, jobs[0])
    for one in jobs:
        np.testing.assert_array_equal(place.look(one), expected)
    assert counted == {("device", ""): 3, ("host", "failed"): 2}


@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_pixels_of_a_caller_are_fitted_too(
    gpu: Gpu, place: Place, color: Literal["RGB", "BGR", "GRAY"]
) -> None:
    spec = InputSpec(width=50, height=60, color=color)
    pixels = scene(200, 90)
    one = job(place, pixels.tobytes(), spec)
    one.tensors = (TensorMeta(name=PIXELS, dtype="uint8", shape=(90, 200, 3)),)
    counted = Counted()
    found = preparer(gpu, counted).prepare([one])
    expected, outcome = by_cpu(place, one)
    assert found == [outcome]
    np.testing.assert_array_equal(place.look(one), expected)
    assert not counted


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_bundle_may_be_larger_than_the_staging(
    gpu: Gpu, place: Place, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(workbench, "_STAGING_BYTES", 150_000)
    monkeypatch.setattr(workbench, "_HOME_BYTES", 1_000)
    monkeypatch.setattr(workbench, "_LARGEST_BYTES", 200_000)
    sizes = [(211, 157), (230, 200), (280, 220), (900, 40), (300, 290), (20, 20)]
    kinds = [encode(photo(*size), "PNG") for size in sizes]
    jobs = [job(place, data, where=where) for data in kinds]
    counted = Counted()
    own = preparer(gpu, counted)
    for _ in range(2):
        own.prepare(jobs)
        for one in jobs:
            np.testing.assert_array_equal(place.look(one), by_cpu(place, one)[0])
    assert counted == {("host", "format"): 10, ("host", "large"): 2}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("color", ["BGR", "GRAY"])
def test_very_large_pictures_are_resized_on_the_host(
    gpu: Gpu,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    *,
    color: Literal["BGR", "GRAY"],
    orientation: int,
) -> None:
    monkeypatch.setattr(workbench, "_LARGEST_BYTES", 1_000)
    spec = InputSpec(width=50, height=60, color=color, resize=Resize.CROP)
    encoded = job(place, turned(photo(), "WEBP", orientation), spec)
    pixels = job(place, scene(200, 90).tobytes(), spec)
    pixels.tensors = (TensorMeta(name=PIXELS, dtype="uint8", shape=(90, 200, 3)),)
    found = preparer(gpu, Counted()).prepare([encoded, pixels])
    for one, outcome in zip((encoded, pixels), found, strict=True):
        expected, prepared = by_cpu(place, one)
        assert outcome == prepared
        np.testing.assert_array_equal(place.look(one), expected)


@pytest.mark.parametrize(("error", "raised"), [(GpuError, Retry), (GpuLostError, Fatal)])
def test_a_device_that_fails_fails_the_bundle_and_no_other(
    gpu: Gpu, place: Place, error: type[GpuError], raised: type[Exception]
) -> None:
    class Once(TurboDecoder):
        failed = False

        def decode(
            self, encoded: Sequence[Data], color: Color, stream: Stream
        ) -> list[OnDevice | None]:
            if not self.failed:
                self.failed = True
                raise error("the driver's reason")
            return super().decode(encoded, color, stream)

    own = preparer(gpu, Counted(), Once)
    one = job(place, PHOTO)
    with pytest.raises(raised, match="the driver's reason"):
        own.prepare([one])
    own.prepare([one])
    np.testing.assert_array_equal(place.look(one), by_cpu(place, one)[0])


def test_several_bundles_are_prepared_at_once(gpu: Gpu, place: Place) -> None:
    specs = [InputSpec(width=140 + n, height=100) for n in range(12)]
    bundles = [[job(place, data, spec) for data in (PHOTO, ALL_KINDS["png"])] for spec in specs]
    own = preparer(gpu, Counted(), at_once=2)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(own.prepare, bundles))
    for bundle in bundles:
        for one in bundle:
            np.testing.assert_array_equal(place.look(one), by_cpu(place, one)[0])
            assert 0 < one.began_ns <= one.ended_ns


def test_the_emulated_device_has_no_decoder(gpu: Gpu) -> None:
    if gpu.info.kind == "emulated":
        assert open_jpeg_decoder(gpu) is None
    else:
        assert open_jpeg_decoder(gpu) is not None, "see the log for what is missing"
