"""The engine around any network that takes its images from a GPU's memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate
from typing import Protocol

import numpy as np

from services.infer.engines import Image, Outputs
from services.infer.engines.faults import bad_image, broken, require_batch, unwilling
from services.infer.engines.gather import Gather
from services.infer.engines.host import NetworkError, give_back_memory
from visionmesh.errors import Code, Retry
from visionmesh.gpu.failures import lost
from visionmesh.gpu.gpu import (
    DeviceArray,
    Gpu,
    GpuError,
    GpuLostError,
    GpuMemoryError,
    Stream,
)
from visionmesh.models.spec import ModelSpec

_ALIGNMENT = 64
"""Of outputs in the host's memory: a cache line."""
_TO_GROW = timedelta(minutes=1)
"""After which batches for which memory lacked are tried again: what took it may be gone, as a
version that was exchanged. A trial that fails costs one batch a start, as the first time."""

log = logging.getLogger(__name__)


class DeviceNetwork(Protocol):
    """What a runtime's module puts into a `DeviceEngine`; used by one thread at a time."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs with, in ascending order; `powers` is a good choice."""

    def __call__(self, images: DeviceArray, stream: Stream) -> Mapping[str, DeviceArray]:
        """Enqueue the network on ``stream``, which is the current one, too.

        ``images`` is ``(n, …)`` in the network's layout and dtype, n one of `batch_sizes`, and for
        the same n always the same memory. The outputs may be overwritten by the next call. Arrays
        of the host among them are the caller's.

        Raises
        ------
        NetworkError
            If the runtime fails; the text is its reason.
        GpuError
            If the device fails, `GpuMemoryError` if it has too little memory.
        """

    def close(self) -> None:
        """Free what only this network holds; it is not used again."""


def powers(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … and ``most``: few enough to prepare each, and fewer than half are empty."""
    return (*(1 << bit for bit in range((most - 1).bit_length())), most)


class DeviceEngine:
    """Gathers a batch on the device, has the network run it there, and brings home the answer.

    All of that is enqueued on one stream, and waited for once. Several engines on one device
    overlap: one's copies with the other's computing.
    """

    def __init__(self, *, gpu: Gpu, network: DeviceNetwork, spec: ModelSpec) -> None:
        self._gpu = gpu
        self._network: DeviceNetwork | None = network
        self._name = spec.name
        self._sizes = self._able = network.batch_sizes
        self._grow_at = math.inf
        self._stream = gpu.stream()
        with self._stream:
            self._gather = Gather(gpu=gpu, spec=spec.input, most=self._sizes[-1])
            self._batch = self._gather.batch(self._sizes[-1])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._sizes

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        if time.monotonic() >= self._grow_at:
            self._sizes, self._grow_at = self._able, math.inf
        while True:
            try:
                return self._run_parts(images, home=home)
            except GpuMemoryError as error:
                self._halve(error)
            except GpuLostError as error:
                raise lost(error) from error
            except GpuError as error:
                self._require_health(error)
                raise Retry(f"Model {self._name!r}: the device failed: {error}") from error
            except NetworkError as error:
                self._require_health(error)
                raise bad_image(self._name, error) from error

    def warm(self) -> None:
        """Run every batch size once; those for which there is no memory are given up."""
        for size in self._sizes:
            try:
                outputs = self._call((), size, home=True)
            except GpuMemoryError as error:
                if size == self._sizes[0]:
                    raise unwilling(self._name, size, error) from error
                log.warning("model %s: batches of %d are too large: %s", self._name, size, error)
                # For good: what a size needs at first is not made while images wait.
                self._sizes = tuple(smaller for smaller in self._sizes if smaller < size)
                self._able = self._sizes
                return
            except (NetworkError, GpuError) as error:
                raise unwilling(self._name, size, error) from error
            require_batch(self._name, size, outputs)

    def close(self) -> None:
        network, self._network = self._network, None
        if network is not None:
            network.close()
        del self._gather, self._batch
        # Of a device that is lost nothing can be had back.
        with suppress(GpuError):
            self._gpu.trim()
        give_back_memory()

    def _run_parts(self, images: Sequence[Image], *, home: bool) -> Outputs:
        """Run all images; in several batches if the largest is not what it was."""
        most = self._sizes[-1]
        parts = [images[at : at + most] for at in range(0, len(images), most)]
        ran = [self._call(part, self._size_for(len(part)), home=home) for part in parts]
        if len(ran) == 1:
            return ran[0]
        with self._stream as stream:
            joined = {name: self._join([outputs[name] for outputs in ran]) for name in ran[0]}
            stream.synchronize()
        return joined

    def _size_for(self, images: int) -> int:
        return next(size for size in self._sizes if size >= images)

    def _call(self, images: Sequence[Image], size: int, *, home: bool) -> Outputs:
        """Run a batch of ``size``, filled up with zeros; return what is of ``images``.

        Without images it is the answer to the zeros.
        """
        assert self._network is not None, "the engine is closed"
        with self._stream as stream:
            try:
                batch = self._batch[:size]
                self._gather(images, batch)
                outputs = self._network(batch, stream)
                wanted = {name: array[: len(images) or size] for name, array in outputs.items()}
                return self._bring_home(wanted) if home else self._keep(wanted)
            finally:
                stream.synchronize()

    def _bring_home(self, outputs: Mapping[str, DeviceArray]) -> Outputs:
        """Enqueue the copies to memory of the host that is the caller's."""
        contiguous = self._gpu.xp.ascontiguousarray
        away = {name: contiguous(a) for name, a in outputs.items() if self._is_on_device(a)}
        # An output may be empty, but memory may not.
        rooms = [max(-(-array.nbytes // _ALIGNMENT), 1) * _ALIGNMENT for array in away.values()]
        memory = self._gpu.pinned(sum(rooms)) if rooms else np.empty(0, np.uint8)
        found = dict(outputs)
        for (name, array), begin in zip(away.items(), accumulate((0, *rooms)), strict=False):
            host = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
            self._gpu.download(array, host)
            found[name] = host
        return found

    def _keep(self, outputs: Mapping[str, DeviceArray]) -> Outputs:
        """Enqueue the copies to memory of the device that is the caller's."""
        return {
            name: array.copy() if self._is_on_device(array) else array
            for name, array in outputs.items()
        }

    def _is_on_device(self, array: DeviceArray) -> bool:
        return isinstance(array, self._gpu.xp.ndarray)

    def _join(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        where = np if isinstance(arrays[0], np.ndarray) else self._gpu.xp
        return where.concatenate(arrays)

    def _halve(self, error: GpuMemoryError) -> None:
        """Run fewer images at once for a while; raise `Retry` if one batch is all there is."""
        smaller = tuple(size for size in self._sizes if 2 * size <= self._sizes[-1])
        if not smaller:
            raise Retry(f"Model {self._name!r}: {error}", code=Code.MODEL_NOT_READY) from error
        log.warning("model %s runs at most %d images at once: %s", self._name, smaller[-1], error)
        self._sizes = smaller
        self._grow_at = time.monotonic() + _TO_GROW.total_seconds()

    def _require_health(self, error: Exception) -> None:
        """Raise `Fatal` unless the network still works on an empty image."""
        try:
            self._call((), self._sizes[0], home=True)
        except (NetworkError, GpuError) as again:
            raise broken(self._name, error) from again


def only_sizes(network_batch: int | None, most: int) -> tuple[int, ...]:
    """Return the batch sizes of a network that takes ``network_batch`` images only, if that."""
    return (network_batch,) if network_batch else powers(most)
