"""A stand-in for NVIDIA's driver, as ``pynvml`` shows it."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

UNSUPPORTED, NOT_FOUND, TIMEOUT, LOST, RESET = 3, 6, 10, 15, 16


class FakeError(Exception):
    """As ``pynvml.NVMLError``: the code is in ``value``."""

    def __init__(self, value: int) -> None:
        super().__init__({LOST: "GPU is lost", 12: "NVML Shared Library Not Found"}.get(value, ""))
        self.value = value


class Driver(ModuleType):
    """A driver with two GPUs, the second of which is cut into slices and tells less of itself."""

    NVMLError = FakeError
    NVML_SUCCESS = 0
    NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED = LOST, RESET

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = self.absent = False
        self.lost: dict[str, int] = {}
        self.reports: list[tuple[str, int]] = []
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
            "nvmlDeviceGetUUID": lambda handle: f"uuid of {handle}",
            "nvmlDeviceGetName": lambda handle: (
                f"NVIDIA H200{' MIG 3g.71gb' if 'slice' in handle else ''}"
            ),
            "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=100, used=30, free=70),
            "nvmlDeviceGetTemperature": lambda *_: 50,
            "nvmlDeviceGetRemappedRows": lambda _: (1, 0, 1, 0),
            "nvmlDeviceGetMigMode": lambda handle: [int(handle == "gpu1"), 0],
            "nvmlDeviceGetMaxMigDeviceCount": lambda _: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": self._slice,
            "nvmlDeviceGetFieldValues": lambda *_: [
                SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=0))
            ],
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [
                SimpleNamespace(pid=12, usedGpuMemory=None)
            ],
            "nvmlEventSetCreate": lambda: "events",
            "nvmlEventSetWait_v2": self._report,
        }

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name.startswith("nvmlEventType"):
            return 0
        return lambda *arguments: self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in {"nvmlInit", "nvmlShutdown"}:
            self.open = name == "nvmlInit"
            if self.open and self.absent:
                raise FakeError(12)
            return None
        if arguments and (code := self.lost.get(str(arguments[0]))):
            raise FakeError(code)
        if name not in self.answers:
            raise FakeError(UNSUPPORTED)
        return self.answers[name](*arguments)

    def _slice(self, handle: str, place: int) -> str:
        if place != 2:
            raise FakeError(NOT_FOUND)
        return f"{handle} slice {place}"

    def _report(self, *_: object) -> SimpleNamespace:
        if not self.reports:
            raise FakeError(TIMEOUT)
        handle, xid = self.reports.pop()
        return SimpleNamespace(device=handle, eventData=xid)
