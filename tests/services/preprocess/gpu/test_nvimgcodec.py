"""JPEG by nvImageCodec: what of it is there without a GPU, and what it makes of images on one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simplejpeg

from services.preprocess.formats.header import Color
from services.preprocess.gpu.decoding import open_jpeg_decoder
from tests.services.preprocess.pictures import encode, photo
from visionmesh.gpu import Gpu, GpuError, Stream, open_gpu
from visionmesh.gpu.gpu import DeviceInfo, GpuMemoryError

SPARE = "nvImageCodec comes with the extra `gpu`"


@dataclass
class WithoutDriver:
    """As much of a GPU as is asked for before one is touched."""

    info: DeviceInfo


WITHOUT_DRIVER: Any = WithoutDriver(DeviceInfo("cuda", 0, "GPU-0", "none", 0, (9, 0)))


def test_a_decoder_that_cannot_be_is_explained_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with caplog.at_level(logging.WARNING):
        assert open_jpeg_decoder(WITHOUT_DRIVER) is None
    [record] = caplog.records
    assert "JPEGs are decoded on the CPU, as nvImageCodec cannot be used: " in record.message


def test_it_takes_data_where_it_lies() -> None:
    nvimgcodec = pytest.importorskip("nvidia.nvimgcodec", reason=SPARE)
    data = memoryview(encode(photo(210, 150), "JPEG"))
    stream = nvimgcodec.CodeStream(np.frombuffer(data, np.uint8))
    assert (stream.width, stream.height, stream.codec_name) == (210, 150, "jpeg")


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("CUDA Runtime failure: '#2' at image.cpp:66", GpuMemoryError),
        ("CUDA Runtime failure: '#201' at image.cpp:66", GpuError),
        ("nvImageCodec failure: '#2'", GpuError),
    ],
)
def test_a_device_that_is_full_is_told_from_one_that_fails(
    monkeypatch: pytest.MonkeyPatch, told: str, kind: type[GpuError]
) -> None:
    nvimgcodec = pytest.importorskip("nvidia.nvimgcodec", reason=SPARE)

    class Failing:
        def __init__(self, **_: object) -> None:
            """Take what a decoder does."""

        def decode(self, *_: object, **__: object) -> list[object]:
            raise RuntimeError(told)

    monkeypatch.setattr(nvimgcodec, "Decoder", Failing)
    decoder = open_jpeg_decoder(WITHOUT_DRIVER)
    assert decoder is not None
    with pytest.raises(GpuError) as raised:
        decoder.decode([encode(photo(21, 15), "JPEG")], "RGB", open_gpu("emulated").stream())
    assert type(raised.value) is kind


@pytest.fixture
def stream(gpu: Gpu) -> Stream:
    """One that outlives what a test decodes."""
    return gpu.stream()


@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_it_decodes_as_libjpeg_turbo_but_for_a_few_grey_levels(
    gpu: Gpu, stream: Stream, color: Color
) -> None:
    if gpu.info.kind != "cuda":
        pytest.skip("nvImageCodec decodes on NVIDIA's GPUs only")
    decoder = open_jpeg_decoder(gpu)
    assert decoder is not None
    kinds = [photo(640, 480), photo(333, 217), photo(mode="L")]
    data = [encode(one, "JPEG", quality=90) for one in kinds]
    data.append(encode(kinds[0], "JPEG", progressive=True))
    with stream:
        found = decoder.decode([*data, b"\xff\xd8\xff"], color, stream)
        stream.synchronize()
    assert found.pop() is None
    for one, decoded in zip(data, found, strict=True):
        assert decoded is not None
        expected = simplejpeg.decode_jpeg(one, color)
        stored, pixels = decoded.stored, gpu.xp.asarray(decoded.memory)
        assert (stored.height, stored.width, stored.column) == expected.shape
        assert (stored.order, stored.address) == (color, gpu.address(pixels))
        home = pixels.get().reshape(expected.shape).astype(int)
        assert np.abs(home - expected).mean() < 1
        assert np.abs(home - expected).max() < 24
