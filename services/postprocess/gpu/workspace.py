"""Memory for batches: what goes up, what comes home, and what lies between."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from visionmesh.contracts import TensorMeta
from visionmesh.gpu.gpu import DeviceArray, Gpu
from visionmesh.tensors.layout import device_arrays, plan


class Workspace:
    """A stream, and memory on both sides for one batch after the other; it grows as they do."""

    def __init__(self, *, gpu: Gpu) -> None:
        self._gpu = gpu
        self.stream = gpu.stream()
        self._device: DeviceArray = gpu.xp.empty(0, "uint8")
        self._host = gpu.pinned(1)

    def lay_out(
        self, metas: Sequence[TensorMeta], *, host: int
    ) -> tuple[dict[str, DeviceArray], dict[str, DeviceArray]]:
        """Return arrays on the device, and the same of the first ``host`` of them on the host.

        What they hold is whatever was there before.
        """
        offsets, total = plan(metas)
        here = offsets[host] if host < len(metas) else total
        if self._device.nbytes < total:
            self._device = self._gpu.xp.empty(total, "uint8")
        if self._host.nbytes < here:
            self._host = self._gpu.pinned(here)
        self._offsets = (*offsets, total)
        return device_arrays(self._device, metas), device_arrays(self._host, metas[:host])

    def upload(self, first: int, last: int) -> None:
        """Enqueue one copy of the host's arrays from ``first`` to before ``last``."""
        begin, end = self._offsets[first], self._offsets[last]
        self._gpu.upload(self._host[begin:end], self._device[begin:end])

    def download(self, first: int, last: int) -> None:
        """Enqueue one copy of the device's arrays from ``first`` to before ``last``."""
        begin, end = self._offsets[first], self._offsets[last]
        self._gpu.download(self._device[begin:end], self._host[begin:end])


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
