"""GPUs: what is there, memory that processes share, kernels. Nothing is imported before it is used.

Whatever runs on a GPU is written against `Gpu`, of which there are two kinds: ``cuda`` (CuPy), and
``emulated``, which runs the same kernels on the CPU for those who have no GPU at hand.
"""

from visionmesh.gpu.gpu import DeviceInfo, Event, Gpu, GpuError, Kernel, SharedMemory, Stream
from visionmesh.gpu.opening import gpu_of, open_gpu

__all__ = [
    "DeviceInfo",
    "Event",
    "Gpu",
    "GpuError",
    "Kernel",
    "SharedMemory",
    "Stream",
    "gpu_of",
    "open_gpu",
]
