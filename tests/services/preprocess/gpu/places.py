"""Where images that a GPU prepares go to in tests, and what the CPU makes of the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np

from services.preprocess.formats.header import Pixels
from services.preprocess.gpu.decoding import JpegDecoder
from services.preprocess.gpu.preparer import GpuPreparer
from services.preprocess.job import CpuPreparer, Job
from services.preprocess.pixels import Prepared
from tests.services.preprocess.gpu.decoders import TurboDecoder
from visionmesh.errors import Reject
from visionmesh.gpu import Gpu
from visionmesh.models.spec import InputSpec
from visionmesh.tensors import DeviceArena, InlineArena, Slot

MAX_PIXELS = 5_000_000
SPEC = InputSpec(width=160, height=130, pad=9)


class Place:
    """Where tests have their slots, on the device or on the host, and how they look at them."""

    def __init__(self, gpu: Gpu, directory: Path) -> None:
        self._gpu = gpu
        self._device = DeviceArena(
            gpu=gpu, directory=directory, name="a", size=8 << 20, lease=timedelta(minutes=1)
        )
        self._host = InlineArena(max_bytes=8 << 20)

    def slot(self, nbytes: int, where: str) -> Slot:
        slot = (self._device if where == "device" else self._host).reserve(nbytes)
        assert slot is not None
        assert (slot.device is not None) == (where == "device")
        return slot

    def look(self, job: Job) -> Pixels:
        if job.slot.device is None:
            return job.pixels
        home = np.empty(job.nbytes, np.uint8)
        with self._gpu.stream() as stream:
            self._gpu.download(job.slot.device, home)
            stream.synchronize()
        return home.reshape(job.shape)

    def close(self) -> None:
        self._device.close()


class Counted(Counter[tuple[str, str]]):
    def count(self, where: str, why: str) -> None:
        self[where, why] += 1


def preparer(
    gpu: Gpu,
    counted: Counted,
    decoder: Callable[[Gpu], JpegDecoder | None] = TurboDecoder,
    at_once: int = 1,
) -> GpuPreparer:
    return GpuPreparer(
        gpu=gpu,
        max_pixels=MAX_PIXELS,
        at_once=at_once,
        open_decoder=decoder,
        count=counted.count,
    )


def job(place: Place, data: bytes, spec: InputSpec = SPEC, where: str = "device") -> Job:
    nbytes = spec.height * spec.width * spec.channels
    return Job(payload=memoryview(data), spec=spec, slot=place.slot(nbytes, where))


def by_cpu(place: Place, like: Job) -> tuple[Pixels, Prepared | Reject]:
    """Return what the CPU makes of the same image."""
    own = Job(
        payload=like.payload,
        tensors=like.tensors,
        spec=like.spec,
        slot=place.slot(like.nbytes, "host"),
    )
    (outcome,) = CpuPreparer(max_pixels=MAX_PIXELS).prepare([own])
    return own.pixels, outcome
