"""What a GPU's errors mean for the image at hand, and for the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from visionmesh.errors import Code, Fatal, Retry
from visionmesh.gpu.gpu import GpuError, GpuLostError, GpuMemoryError

_PATIENCE = timedelta(milliseconds=500)
"""How long an image waits for memory: while a model is being loaded it is short for seconds."""


@contextmanager
def device_failures() -> Iterator[None]:
    """Raise `Fatal` where the device is lost to this process, `Retry` where it only failed.

    A device that is full is no fault of the image (mesh_full), which waits for as long as it takes.
    """
    try:
        yield
    except GpuLostError as error:
        raise lost(error) from error
    except GpuMemoryError as error:
        raise Retry(f"The GPU is full: {error}", delay=_PATIENCE, code=Code.MESH_FULL) from error
    except GpuError as error:
        raise Retry(f"The GPU failed: {error}") from error


def lost(error: GpuLostError) -> Fatal:
    """Return what ends a worker whose device is lost to it."""
    return Fatal(Code.INTERNAL, f"The GPU is lost to this process: {error}")
