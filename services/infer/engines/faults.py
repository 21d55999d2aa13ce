"""What is said of networks that do not run, by whichever engine."""

from __future__ import annotations

from services.infer.engines import NoMemory, Outputs
from visionmesh.errors import Code, ConfigurationError, Fatal, Reject
from visionmesh.gpu.gpu import GpuMemoryError


def bad_image(model: str, error: Exception) -> Reject:
    """Return what an image is answered on which the network fails, though it works on others."""
    return Reject(Code.MODEL_FAILED, f"Model {model!r} fails on the image: {error}")


def broken(model: str, error: Exception) -> Fatal:
    """Return what ends a worker whose network does not even work on an empty image any more."""
    return Fatal(Code.MODEL_FAILED, f"Model {model!r} does not work any more: {error}")


def unwilling(model: str, size: int, error: Exception) -> ConfigurationError:
    """Return why a version is not served: a batch size does not run at all."""
    kind = NoMemory if isinstance(error, GpuMemoryError) else ConfigurationError
    return kind(Code.MODEL_INVALID, f"Model {model!r} does not run with a batch of {size}: {error}")


def require_batch(model: str, size: int, outputs: Outputs) -> None:
    """Raise `ConfigurationError` unless each output has ``size`` entries."""
    for name, array in outputs.items():
        if array.shape[:1] != (size,):
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"Model {model!r} answers {size} images with an output {name!r} of "
                f"shape {array.shape}; its first dimension must be the batch.",
            )
