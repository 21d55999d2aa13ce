"""What of TensorRT needs a GPU, played on the emulated one: plans are JSON, networks add up pixels.

A plan says which batch sizes its profiles cover and what to do wrong; contexts read and write the
addresses that they are given, as the real ones do.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ILogger:
    class Severity(int, Enum):
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class DataType(Enum):
    FLOAT = "float32"
    BF16 = "bfloat16"


def nptype(kind: DataType) -> type[np.float32]:
    if kind is DataType.BF16:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return np.float32


@dataclass
class Context:
    """Writes the sum of each image's pixels, times 2, to the output."""

    engine: Engine
    profile: int | None = None
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        self.memory = (memory, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if self.engine.told.get("taken"):
            self.engine.logger.log(ILogger.Severity.ERROR, "profile 0 is in use")
            raise RuntimeError("Error in set optimization profile async.")
        self.profile = index
        return 0 <= index < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        assert self.profile is not None, "shapes are checked against the profile"
        smallest, _, largest = self.engine.get_tensor_profile_shape(name, self.profile)
        return bool(smallest[0] <= shape[0] <= largest[0])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        if self.engine.told.get("misfit"):
            self.engine.logger.log(ILogger.Severity.ERROR, "reshape_3: 5 is no multiple of 2")
            raise RuntimeError("shape inference failed")
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3) if self.engine.told.get("unknown") else (self.shape[0], 1)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory[1] >= self.engine.get_device_memory_size_for_profile_v2(0)
        if self.engine.told.get("fails") == self.shape[0]:
            self.engine.logger.log(ILogger.Severity.ERROR, self.engine.told["reason"])
            return False
        images = _at(self.addresses["images"], self.shape)
        sums = _at(self.addresses["sums"], (self.shape[0], 1))
        sums[:, 0] = 2 * images.reshape(self.shape[0], -1).sum(axis=1)
        self.engine.ran.append(self.shape[0])
        return True


@dataclass
class Engine:
    told: dict[str, Any]
    logger: ILogger
    ran: list[int] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    num_io_tensors: int = 2
    device_memory_size_v2: int = 1024

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.told["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return ("images", "sums")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.told.get("dtype", "FLOAT")] if name == "sums" else DataType.FLOAT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation(self.told.get("location", 0))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.told.get("batch", -1), *self.told["shape"])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        smallest, largest = self.told["profiles"][index]
        return [(size, *self.told["shape"]) for size in (smallest, largest, largest)]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return 512

    def create_execution_context(self, strategy: Enum) -> Context:
        assert strategy.name == "USER_MANAGED"
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Runtime:
    engines: list[Engine]
    """Of all runtimes, as they were made."""

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        try:
            told = json.loads(content)
        except ValueError:
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion failed:\n  magic tag")
            return None
        self.engines.append(Engine(told, self.logger))
        return self.engines[-1]


def pretended() -> Any:
    """Return a new module."""

    class Own(Runtime):
        engines: list[Engine] = []  # noqa: RUF012 - of this module

    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__="10.16.1",
        ILogger=ILogger,
        Runtime=Own,
        TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation,
        ExecutionContextAllocationStrategy=Enum("Strategy", "STATIC USER_MANAGED"),
        nptype=nptype,
    )
    return module


def _at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    memory = (ctypes.c_float * prod(shape)).from_address(address)
    array: NDArray[np.float32] = np.ctypeslib.as_array(memory).reshape(shape)
    return array
