"""A device by its name: ``cuda``, ``cuda:1``, ``cuda:GPU-…``, ``cuda:MIG-…``, ``emulated``."""

from __future__ import annotations

import re
from functools import cache

from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import DeviceInfo, Gpu, GpuError

_NAME = re.compile(r"cuda(:(\d+|(GPU|MIG)-[\w/-]+))?|emulated(:\d+)?")


def is_gpu(device: str) -> bool:
    """Say whether ``device`` names a GPU, here or elsewhere."""
    return _NAME.fullmatch(device) is not None


def open_gpu(device: str) -> Gpu:
    """Return the GPU that ``device`` names; the same object each time, by whatever name.

    Raises
    ------
    ConfigurationError
        (device_missing) if it is not in this machine, or cannot be used here; the text says why.
    """
    if not is_gpu(device):
        raise ConfigurationError(
            Code.DEVICE_MISSING, f"{device!r} is no GPU: use cuda, cuda:<index> or cuda:<uuid>."
        )
    kind, _, which = device.partition(":")
    return _open_cuda(which) if kind == "cuda" else _emulated(int(which or 0))


def gpu_of(uuid: str) -> Gpu:
    """Return the GPU whose `DeviceInfo` has this ``uuid``, as `open_gpu` does."""
    kind, _, index = uuid.partition("-")
    return open_gpu(f"emulated:{index}" if kind == "EMULATED" else f"cuda:{uuid}")


@cache
def _emulated(index: int) -> Gpu:
    from visionmesh.gpu.emulated import EmulatedGpu  # noqa: PLC0415 - only who asks for one

    return EmulatedGpu(index=index)


def _open_cuda(which: str) -> Gpu:
    try:
        from visionmesh.gpu import cuda, cuda_driver  # noqa: PLC0415 - CuPy is only where GPUs are
    except ImportError as error:
        raise ConfigurationError(
            Code.DEVICE_MISSING, f"GPUs want CuPy ({error}): pip install 'visionmesh[gpu]'."
        ) from error
    try:
        found = cuda_driver.devices()
    except GpuError as error:
        raise ConfigurationError(
            Code.DEVICE_MISSING, f"The GPUs of this machine cannot be used: {error}."
        ) from error
    for info in found:
        if which in ("", str(info.index), info.uuid):
            return cuda.gpu_at(info)
    raise ConfigurationError(
        Code.DEVICE_MISSING, f"There is no GPU {which or 0} here; the driver tells {_list(found)}."
    )


def _list(found: tuple[DeviceInfo, ...]) -> str:
    return ", ".join(f"{info.index} ({info.uuid}, {info.name})" for info in found) or "of none"
