"""What a GPU's errors mean for the image at hand, and for the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from visionmesh.errors import Code, Fatal, Retry
from visionmesh.gpu.gpu import GpuError, GpuLostError


@contextmanager
def device_failures() -> Iterator[None]:
    """Raise `Fatal` where the device is lost to this process, `Retry` where it only failed."""
    try:
        yield
    except GpuLostError as error:
        raise lost(error) from error
    except GpuError as error:
        raise Retry(f"The GPU failed: {error}") from error


def lost(error: GpuLostError) -> Fatal:
    """Return what ends a worker whose device is lost to it."""
    return Fatal(Code.INTERNAL, f"The GPU is lost to this process: {error}")
