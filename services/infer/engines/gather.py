"""How images become a network's input on a GPU: what `PixelWriter` does on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from services.infer.engines import Image
from services.infer.pixels import affine
from visionmesh.gpu.gpu import DeviceArray, Gpu
from visionmesh.gpu.staging import Place, Staging
from visionmesh.models.spec import InputSpec

_SOURCE = Path(__file__).with_name("gather.cu")
_BLOCK = 256
_GROUP = 4
"""Pixels that a thread of the kernel works on."""
_WORDS = 2
"""Of an entry in the kernel's table: the address, and whether the layout is the network's own."""


class Gather:
    """Writes images that lie anywhere into a batch, all by one kernel.

    Those of the host go to the device before, with the table of addresses and by one copy. Made and
    used within a stream, by one thread at a time, who waits for the stream before the next batch.
    """

    def __init__(self, *, gpu: Gpu, spec: InputSpec, most: int) -> None:
        self._gpu = gpu
        height, width, channels = spec.height, spec.width, spec.channels
        self._pixels = (height, width, channels)
        self._entry = (channels, height, width) if spec.layout == "NCHW" else self._pixels
        self._dtype = np.dtype(spec.dtype)
        # With one channel both layouts are the same bytes.
        planar = int(spec.layout == "NCHW" and channels > 1)
        bits = 8 * self._dtype.itemsize
        self._kernel = gpu.kernel(_SOURCE, "gather", BITS=bits, CHANNELS=channels, PLANAR=planar)
        self._count = height * width
        self._grid = math.ceil(self._count / (_GROUP * _BLOCK))
        self._terms = [term for terms in affine(spec) for term in np.resize(terms, 3)]
        self._table_bytes = most * _WORDS * np.dtype(np.uint64).itemsize
        # Pixels always have room; floats get it when they come.
        sizes = (self._table_bytes, *most * [math.prod(self._pixels)])
        self._staging = Staging(gpu=gpu, sizes=sizes)

    def batch(self, size: int) -> DeviceArray:
        """Return memory for ``size`` images, in the network's layout and dtype."""
        return self._gpu.xp.zeros((size, *self._entry), self._dtype)

    def __call__(self, images: Sequence[Image], batch: DeviceArray) -> None:
        """Enqueue the writing of ``images`` into ``batch``, whose other entries become zeros.

        Each image is ``(height, width, channels) uint8``, or an entry as it is in the batch.
        """
        images = [self._within_reach(image) for image in images]
        above = [self._gpu.holds(image) for image in images]
        below = (image for image, there in zip(images, above, strict=True) if not there)
        self._staging.clear()
        self._staging.reserve((self._table_bytes, *(image.nbytes for image in below)))
        entries = self._take(self._table_bytes)
        table = entries.host.view(np.uint64).reshape(-1, _WORDS)
        table[:] = 0
        for row, image, there in zip(table, images, above, strict=False):
            is_pixels = image.shape == self._pixels and image.dtype == np.uint8
            row[:] = self._gpu.address(image if there else self._stage(image)), not is_pixels
        self._staging.upload()
        args = (entries.device.view(np.uint64), batch, np.int32(self._count), *self._terms)
        self._kernel((self._grid, len(batch)), (_BLOCK,), args)

    def _within_reach(self, image: Image) -> Image:
        """Return a contiguous image on the host or this device; others are copied."""
        if not isinstance(image, np.ndarray) and not self._gpu.holds(image):
            return self._gpu.xp.array(image)
        return image if image.flags.c_contiguous else image.copy()

    def _stage(self, image: Image) -> DeviceArray:
        """Write an image of the host to where it is copied from; return where it will be."""
        place = self._take(image.nbytes)
        place.host[:] = image.reshape(-1).view(np.uint8)
        return place.device

    def _take(self, nbytes: int) -> Place:
        place = self._staging.take(nbytes)
        assert place is not None, "there was room for all"
        return place
