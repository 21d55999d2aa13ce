"""Memory for batches: what goes up, what comes home, and what lies between."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.postprocess.decoders import Arrays
from visionmesh.contracts import TensorMeta
from visionmesh.gpu.gpu import DeviceArray, Gpu
from visionmesh.gpu.staging import on_device, pinned
from visionmesh.tensors.layout import device_arrays, plan


class Workspace:
    """A stream, and memory on both sides for one batch after the other; it grows as they do.

    What goes up and what comes home lie apart on the host: nothing of a batch that comes home late
    gets into the next one.
    """

    def __init__(self, *, gpu: Gpu) -> None:
        self._gpu = gpu
        self.stream = gpu.stream()
        with self.stream:
            self._device = on_device(gpu)
        self._up, self._home = pinned(gpu), pinned(gpu)

    def lay_out(
        self, metas: Sequence[TensorMeta], *, up: int, home: slice
    ) -> tuple[dict[str, DeviceArray], Arrays, Arrays]:
        """Return a batch's arrays on the device, those that go up, and those that come home.

        The first ``up`` go up. What they hold is whatever was there before.
        """
        offsets, total = plan(metas)
        self._end, self._span = offsets[up], slice(offsets[home.start], offsets[home.stop])
        length = self._span.stop - self._span.start
        self._device.reserve(total)
        self._up.reserve(self._end)
        self._home.reserve(length)
        return (
            device_arrays(self._device.all, metas),
            device_arrays(self._up.all, metas[:up]),
            device_arrays(self._home.all, metas[home]),
        )

    def upload(self) -> None:
        """Enqueue one copy of all that goes up."""
        self._gpu.upload(self._up.all[: self._end], self._device.all[: self._end])

    def download(self) -> None:
        """Enqueue one copy of all that comes home."""
        length = self._span.stop - self._span.start
        self._gpu.download(self._device.all[self._span], self._home.all[:length])


class Workspaces:
    """Those of a device: as many as there are batches at the same time."""

    def __init__(self, *, gpu: Gpu) -> None:
        self.gpu = gpu
        self._idle: deque[Workspace] = deque()

    @contextmanager
    def borrow(self) -> Iterator[Workspace]:
        """Lend a workspace, its stream current, to one thread."""
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = Workspace(gpu=self.gpu)
        try:
            with workspace.stream:
                yield workspace
        finally:
            # Whatever failed, what was enqueued may still write there.
            workspace.stream.synchronize()
            self._idle.append(workspace)
