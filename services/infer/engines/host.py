"""The engine around any network that takes its images from the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from services.infer.engines import Image, Outputs
from services.infer.engines.faults import bad_image, broken, require_batch, unwilling
from services.infer.pixels import PixelWriter
from visionmesh.models.spec import ModelSpec


class NetworkError(Exception):
    """The runtime could not run the network; the text is its reason."""


class Network(Protocol):
    """What a runtime's module puts into a `HostEngine`."""

    batch: int | None
    """The only batch size that the network takes; `None`: any."""

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """Return what the network says of a batch in its own layout and dtype.

        The arrays belong to the caller. Raises `NetworkError`.
        """


class HostEngine:
    """Fills a batch, lets the network run it, and tells a bad image from a broken engine."""

    def __init__(self, *, network: Network, spec: ModelSpec) -> None:
        self._network: Network | None = network
        self._name = spec.name
        self._sizes = (
            (network.batch,) if network.batch else tuple(range(1, spec.batching.max_size + 1))
        )
        self._writer = PixelWriter(spec.input)
        self._batch = self._writer.batch(self._sizes[-1])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return self._sizes

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        size = next(size for size in self._sizes if size >= len(images))
        for image, target in zip(images, self._batch, strict=False):
            self._writer.write(image, target)
        try:
            outputs = self._call(size)
        except NetworkError as error:
            self._require_health(error)
            raise bad_image(self._name, error) from error
        # What a fixed batch was filled up with is nobody's.
        return {name: array[: len(images)] for name, array in outputs.items()}

    def warm(self) -> None:
        self._batch.fill(0)
        for size in self._sizes:
            try:
                outputs = self._call(size)
            except NetworkError as error:
                raise unwilling(self._name, size, error) from error
            require_batch(self._name, size, outputs)

    def close(self) -> None:
        self._network = None
        give_back_memory()

    def _call(self, size: int) -> Outputs:
        assert self._network is not None, "the engine is closed"
        return self._network(self._batch[:size])

    def _require_health(self, error: Exception) -> None:
        """Raise `Fatal` unless the network still works on an empty image."""
        self._batch.fill(0)
        try:
            self._call(self._sizes[0])
        except NetworkError as again:
            raise broken(self._name, error) from again


def give_back_memory() -> None:
    """Return freed memory to the system: loading needs the weights twice, and glibc keeps that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
