"""Reads what NVIDIA's driver says of the GPUs of this machine, by NVML (``nvidia-ml-py``).

Only figures are read here; what they mean is in `visionmesh.gpu.listing`.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

from visionmesh.gpu.listing import RawGpu, RawSlice

_MOST_REPORTS = 1000
"""Taken at once: a GPU that reports faster than it is read must not hold the reader for ever."""


class NoNvml(Exception):
    """There is nobody who could tell of GPUs; the text says why."""


class _LostError(Exception):
    """The driver cannot reach the GPU any more; the text is NVML's."""


class Nvml:
    """The driver's view of all GPUs of the machine, whichever of them this process may use.

    Its methods block for milliseconds each.

    Raises
    ------
    NoNvml
        If ``nvidia-ml-py`` or a driver is missing.
    """

    def __init__(self) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ModuleNotFoundError as error:
            raise NoNvml("nvidia-ml-py is not installed: pip install 'visionmesh[gpu]'") from error
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise NoNvml(f"no NVIDIA driver answers ({error})") from error
        self._lost = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
        self._xids: dict[str, list[int]] = defaultdict(list)
        self._parts: dict[str, tuple[RawSlice, ...]] = {}
        """Of each GPU: one that is lost tells nothing of them any more."""
        count = self._told(nvml.nvmlDeviceGetCount) or 0
        self._gpus = [self._found(index) for index in range(count)]
        self._events = self._told(nvml.nvmlEventSetCreate)
        for handle, _ in self._gpus:
            if handle is not None and self._events is not None:
                self._listen(handle)

    def read(self) -> tuple[RawGpu, ...]:
        """Return every GPU as it is now."""
        self._hear()
        return tuple(self._read(handle, first) for handle, first in self._gpus)

    def close(self) -> None:
        if self._events is not None:
            self._told(self._nvml.nvmlEventSetFree, self._events)
        self._told(self._nvml.nvmlShutdown)

    def _found(self, index: int) -> tuple[Any, RawGpu]:
        """Return a GPU's handle and what stays the same of it; no handle if it is lost already."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError as error:
            return None, RawGpu(index=index, uuid="", name="", lost=str(error))
        return handle, RawGpu(index=index, uuid=uuid, name=name)

    def _listen(self, handle: Any) -> None:
        kind = self._nvml.nvmlEventTypeXidCriticalError
        # One that is lost says so as soon as it is read.
        with suppress(_LostError):
            self._told(self._nvml.nvmlDeviceRegisterEvents, handle, kind, self._events)

    def _read(self, handle: Any, first: RawGpu) -> RawGpu:
        if handle is None:
            return first
        try:
            return self._figures(handle, first)
        except _LostError as error:
            return replace(first, lost=str(error), slices=self._parts.get(first.uuid, ()))

    def _figures(self, handle: Any, first: RawGpu) -> RawGpu:
        nvml, told = self._nvml, self._told
        parts = self._parts[first.uuid] = tuple(self._slices(handle))
        memory = told(nvml.nvmlDeviceGetMemoryInfo, handle)
        busy = told(nvml.nvmlDeviceGetUtilizationRates, handle)
        # Two counts, of replaced rows, and two flags.
        _, _, pending, failed = told(nvml.nvmlDeviceGetRemappedRows, handle) or (None,) * 4
        uncorrected, volatile = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        running = told(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        return RawGpu(
            index=first.index,
            uuid=first.uuid,
            name=first.name,
            memory_total=memory and int(memory.total),
            memory_used=memory and int(memory.used),
            memory_free=memory and int(memory.free),
            utilization=busy and int(busy.gpu),
            temperature=told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            ecc_uncorrected=told(nvml.nvmlDeviceGetTotalEccErrors, handle, uncorrected, volatile),
            pages_pending=told(nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle),
            rows_pending=pending,
            rows_failed=failed,
            slowed=told(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
            recovery=self._recovery(handle),
            xids=tuple(self._xids[first.uuid]),
            processes=tuple((one.pid, one.usedGpuMemory) for one in running),
            slices=parts,
        )

    def _recovery(self, handle: Any) -> int | None:
        """Return what the driver asks for; older ones do not tell."""
        nvml = self._nvml
        field = nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
        values = self._told(nvml.nvmlDeviceGetFieldValues, handle, [field])
        if not values or values[0].nvmlReturn != nvml.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def _slices(self, handle: Any) -> Iterator[RawSlice]:
        nvml, told = self._nvml, self._told
        enabled, _ = told(nvml.nvmlDeviceGetMigMode, handle) or (0, 0)
        places = told(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) if enabled else 0
        for place in range(places or 0):
            part = told(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
            uuid = told(nvml.nvmlDeviceGetUUID, part) if part is not None else None
            if uuid is None:
                continue
            memory = told(nvml.nvmlDeviceGetMemoryInfo, part)
            yield RawSlice(
                uuid=uuid,
                name=told(nvml.nvmlDeviceGetName, part) or "",
                memory_total=memory and int(memory.total),
                memory_used=memory and int(memory.used),
            )

    def _hear(self) -> None:
        """Take the reports that came since the last look."""
        if self._events is None:
            return
        for _ in range(_MOST_REPORTS):
            try:
                # It waits for so many milliseconds: not at all.
                report = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError:
                return
            uuid = self._told_of(report.device)
            if uuid is not None and report.eventData not in self._xids[uuid]:
                self._xids[uuid].append(int(report.eventData))

    def _told_of(self, handle: Any) -> str | None:
        try:
            uuid: str | None = self._told(self._nvml.nvmlDeviceGetUUID, handle)
        except _LostError:
            return None
        return uuid

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """Return what NVML answers, or `None` where this GPU or driver does not tell that."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in self._lost:
                raise _LostError(str(error)) from error
            return None


def read_once() -> tuple[RawGpu, ...]:
    """Return every GPU of this machine as it is now; raise `NoNvml` if nobody can tell."""
    with closing(Nvml()) as driver:
        return driver.read()
