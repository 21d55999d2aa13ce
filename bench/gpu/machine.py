"""The machine with the GPU, and what it can do at best: the floors of all other figures.

    python -m bench.gpu.machine

A large copy within the device's memory tells its bandwidth, bytes read and bytes written; a large
product of FP16 matrices of random numbers tells its rate. Both are what libraries reach, not what
data sheets promise.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass

import numpy as np

from bench.gpu.figures import Figure, options
from bench.gpu.timing import device_seconds
from visionmesh.gpu import Gpu, open_gpu

_COPIED = 2 << 30
_SIDE = 8192
_PACKAGES = (
    "cupy-cuda13x",
    "numpy",
    "torch",
    "onnxruntime-gpu",
    "tensorrt",
    "nvidia-nvimgcodec-cu13",
)


@dataclass(frozen=True)
class Ceilings:
    """Rates of a device."""

    bytes_per_s: float
    operations_per_s: float
    """In FP16; a multiplication and its addition are two."""


def ceilings(gpu: Gpu, *, tiny: bool) -> Ceilings:
    """Measure what the device can do."""
    xp, stream = gpu.xp, gpu.stream()
    nbytes, side = (1 << 20, 64) if tiny else (_COPIED, _SIDE)
    with stream:
        source = xp.empty(nbytes, np.uint8)
        target = xp.empty(nbytes, np.uint8)
        source[...] = 1
        random = np.random.default_rng(0).standard_normal((side, side), np.float32)
        matrix = xp.asarray(random.astype(np.float16))
        product = xp.empty((side, side), np.float16)
        stream.synchronize()
    copied = device_seconds(gpu, stream, lambda: xp.copyto(target, source))
    multiplied = device_seconds(gpu, stream, lambda: xp.matmul(matrix, matrix, out=product))
    return Ceilings(2 * nbytes / copied, 2 * side**3 / multiplied)


def packages() -> str:
    """Return the versions of what matters here, and is here."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([f"Python {platform.python_version()}", *found])


def main() -> None:
    arguments = options(__doc__).parse_args()
    gpu = open_gpu(arguments.device)
    best = ceilings(gpu, tiny=arguments.tiny)
    major, minor = gpu.info.capability
    shared = shutil.disk_usage("/dev/shm").free / 1e9
    told = (
        f"{gpu.info.name}, sm_{major}{minor}, driver {gpu.info.driver or 'none'}, "
        f"{os.cpu_count()} cores, {shared:.1f} GB free in /dev/shm; {packages()}"
    )
    memory = gpu.info.memory_bytes / 1e9
    Figure(what="memory of the device", value=memory, unit="GB", note=told).tell()
    Figure(what="copy, bytes read and written", value=best.bytes_per_s / 1e9, unit="GB/s").tell()
    rate = best.operations_per_s / 1e12
    Figure(what="product of FP16 matrices", value=rate, unit="TFLOP/s").tell()


if __name__ == "__main__":
    main()
