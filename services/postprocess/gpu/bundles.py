"""The images of a bundle whose outputs lie in a GPU's memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from services.postprocess.decoders import Decoder
from services.postprocess.gpu import DeviceReducer, Reduced, Workspaces, load_reducer
from visionmesh.errors import ConfigurationError, Reject, Retry
from visionmesh.gpu import Gpu, GpuError
from visionmesh.gpu.failures import lost
from visionmesh.gpu.gpu import GpuLostError
from visionmesh.stage import Item
from visionmesh.telemetry.spans import SpanName
from visionmesh.tensors import DeviceReading, device_arrays

log = logging.getLogger(__name__)

Key = tuple[str, int]
"""A model and its version."""


class Bundles:
    """Reduces on ``gpu`` what can be, a whole bundle at a time, and brings home the rest.

    All of it is waited for in threads: another process may have the device just then. ``count`` is
    told of each model how many images were ``reduced`` there or came ``home``.
    """

    def __init__(self, *, gpu: Gpu, count: Callable[[str, str, int], None]) -> None:
        self._workspaces = Workspaces(gpu=gpu)
        self._count = count
        self._reducers: dict[Key, DeviceReducer] = {}

    @property
    def reduces(self) -> tuple[Key, ...]:
        """What is reduced where it lies."""
        return tuple(self._reducers)

    async def load(self, decoders: Mapping[Key, Decoder]) -> None:
        """Make ready for models; until then their outputs come home.

        Raises
        ------
        Fatal
            If the device is lost to this process.
        """
        for key, decoder in decoders.items():
            try:
                reducer = await asyncio.to_thread(load_reducer, self._workspaces, decoder)
            except GpuLostError as error:
                raise lost(error) from error
            except (GpuError, ConfigurationError) as error:
                log.warning("%s %d is decoded on the CPU: %s", *key, error)
                continue
            if reducer is not None:
                self._reducers[key] = reducer

    def forget(self, model: str) -> None:
        """Let the outputs of a model come home."""
        for key in [key for key in self._reducers if key[0] == model]:
            del self._reducers[key]

    async def reduce(self, items: Sequence[Item]) -> dict[int, Reduced]:
        """Return what was reduced, by the `id` of the item; the others are the decoders'.

        The images of a batch have all its time: they are worked on together.

        Raises
        ------
        Fatal
            If the device is lost to this process.
        """
        batches = defaultdict(list)
        for item in items:
            reading, reference = item.reading, item.reference
            if isinstance(reading, DeviceReading) and not reference.features:
                # Kernels reach this device's memory, and not that of another one.
                near = self._workspaces.gpu.holds(reading.device)
                batches[reference.model, reference.version, reference.tensors, near].append(item)
        found: dict[int, Reduced] = {}
        for (model, version, _, near), batch in batches.items():
            reducer = self._reducers.get((model, version)) if near else None
            began = time.time_ns()
            reduced = await asyncio.to_thread(self._run, reducer, batch)
            ended = time.time_ns()
            for item, one in reduced:
                item.trail.step(SpanName.DECODE_OUTPUTS, began, ended)
                found[id(item)] = one
            for outcome, images in (("reduced", len(reduced)), ("home", len(batch) - len(reduced))):
                if images:
                    self._count(model, outcome, images)
        return found

    def _run(
        self, reducer: DeviceReducer | None, batch: Sequence[Item]
    ) -> list[tuple[Item, Reduced]]:
        """Return what of a batch was reduced; the rest has come home, unless that fails."""
        results: Sequence[Reduced | None] = [None] * len(batch)
        if reducer is not None:
            try:
                results = reducer.reduce(
                    [device_arrays(item.reading.device, item.reference.tensors) for item in batch],
                    [item.reference.params for item in batch],
                )
            except GpuLostError as error:
                raise lost(error) from error
            except (GpuError, Reject) as error:
                log.warning("%d images are decoded on the CPU: %s", len(batch), error)
        for item, one in zip(batch, results, strict=True):
            if one is None:
                with contextlib.suppress(Retry):  # it is raised again where the bytes are needed
                    _ = item.reading.view
        return [(item, one) for item, one in zip(batch, results, strict=True) if one is not None]
