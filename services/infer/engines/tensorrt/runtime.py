"""The package that offers TensorRT's interface, and where its releases differ.

Releases 10.16 and 11, and TensorRT for RTX, are used by what they have in common: networks are
strongly typed (the ONNX file says what is computed in which precision), plans are serialised,
contexts get their memory from us.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from functools import cache
from typing import Any

from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import GpuError, GpuMemoryError

_KEPT_ERRORS = 8
"""One failure is told of by several layers of TensorRT."""

_PACKAGES = {"tensorrt": "'visionmesh[tensorrt]'", "tensorrt_rtx": "tensorrt-rtx"}

log = logging.getLogger(__name__)


@cache
def load_runtime(name: str) -> Any:
    """Return the package ``name``, with its plugins registered.

    Raises
    ------
    ConfigurationError
        (model_invalid) if it is not installed, its libraries are missing, or it is too old.
    """
    try:
        trt = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"TensorRT cannot be used here ({error}); run: pip install {_PACKAGES[name]}.",
        ) from error
    if not hasattr(trt.IExecutionContext, "set_device_memory"):
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{name} {trt.__version__} is too old: visionmesh wants 10.16 or newer.",
        )
    trt.init_libnvinfer_plugins(listener(trt), "")
    return trt


@cache
def listener(trt: Any) -> Any:
    """Return the ``ILogger`` of this process: what is loaded first keeps its own for ever."""

    class Listener(trt.ILogger):  # type: ignore[misc]  # there is no type information
        """Passes on what is said, and keeps the errors for those who have to tell why."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._of_thread = threading.local()

        def log(self, severity: Any, message: str) -> None:
            log.log(_LEVELS.get(severity.name, logging.WARNING), "TensorRT: %s", one_line(message))
            if severity <= trt.ILogger.Severity.ERROR:
                self._errors().append(message)

        def heard(self) -> str:
            """Return the errors of this thread since its last call, the first one first."""
            errors = list(dict.fromkeys(map(one_line, self._errors())))
            self._errors().clear()
            return "; ".join(errors)

        def _errors(self) -> deque[str]:
            # Other threads' are of other networks, and would be taken for the reasons of this one.
            kept: deque[str] = self._of_thread.__dict__.setdefault(
                "errors", deque(maxlen=_KEPT_ERRORS)
            )
            return kept

    return Listener()


_LEVELS = {"WARNING": logging.INFO, "INFO": logging.DEBUG, "VERBOSE": logging.NOTSET + 1}
"""All else are errors, which whoever waits tells again; TensorRT's warnings are notes on plans."""


def failure(trt: Any, what: str) -> GpuError:
    """Return ``what`` failed as an error, with what TensorRT said of it."""
    said = listener(trt).heard() or "TensorRT does not say why"
    # CUDA's own words are "out of memory", and "OutOfMemory" is TensorRT's code.
    kind = GpuMemoryError if "outofmemory" in said.lower().replace(" ", "") else GpuError
    return kind(f"{what}: {said}")


def made(trt: Any, kind: Any) -> Any:
    """Return a ``Builder`` or ``Runtime``; raise `GpuError` if TensorRT cannot use CUDA here."""
    try:
        return kind(listener(trt))
    except TypeError as error:  # all that the bindings have for a null pointer
        raise failure(trt, "TensorRT does not start") from error


def network_flags(trt: Any) -> int:
    """Return the flags of a strongly typed network: 10 has to be told, 11 knows no other."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def aim(trt: Any, config: Any, capability: tuple[int, int]) -> None:
    """Have ``config`` build for devices of a compute capability, whatever is in this machine.

    Only TensorRT for RTX can do that.

    Raises
    ------
    ConfigurationError
        (model_invalid) if this runtime cannot, or not for that one.
    """
    name = "SM{}{}".format(*capability)
    target = getattr(getattr(trt, "ComputeCapability", None), name, None)
    if target is None:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"{trt.__name__} {trt.__version__} does not build for {name}."
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def one_line(message: str) -> str:
    """Return a message on one line."""
    return " ".join(message.split())
