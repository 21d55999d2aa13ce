"""What values the tensors of a network take on real images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator
from onnxruntime.quantization.calibrate import TensorsData

from visionmesh.models.pictures import Picture
from visionmesh.workbench import Sample, Workbench

_AT_ONCE = 4
"""Batches whose tensors are in memory at the same time, all of them."""


class Method(StrEnum):
    """How the range of a tensor's values is found."""

    PERCENTILE = "percentile"
    """Without the 0.0005 % of all values at each end."""
    ENTROPY = "entropy"
    """Where the quantised distribution loses least information (Kullback-Leibler divergence)."""


_METHODS = {
    Method.PERCENTILE: (CalibrationMethod.Percentile, {"symmetric": False, "percentile": 99.999}),
    Method.ENTROPY: (CalibrationMethod.Entropy, {}),
}


class Batches(CalibrationDataReader):  # type: ignore[misc] # the library is untyped
    """Hands inputs of the network to the library."""

    def __init__(self, name: str, batches: Iterable[NDArray[Any]]) -> None:
        self._name = name
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def inputs(bench: Workbench, pictures: Iterable[Picture], batch: int) -> Iterator[NDArray[Any]]:
    """Yield batches of the network's input; the last one is filled up with its last image."""
    waiting: list[Sample] = []
    for picture in pictures:
        waiting.append(bench.sample(picture.encoded))
        if len(waiting) == batch:
            yield bench.tensor(waiting)
            waiting = []
    if waiting:
        yield bench.tensor([*waiting, *[waiting[-1]] * (batch - len(waiting))])


def calibrate(
    network: Path, batches: Iterable[NDArray[Any]], operators: Collection[str], method: Method
) -> TensorsData:
    """Return the ranges of the tensors that ``operators`` take and make."""
    kind, options = _METHODS[method]
    return _collect(network, batches, list(operators), kind, options)


def extremes(network: Path, batches: Iterable[NDArray[Any]]) -> dict[str, float]:
    """Return the largest absolute value of every float tensor that is not constant, by name."""
    ranges = _collect(network, batches, [], CalibrationMethod.MinMax, {})
    return {name: float(np.abs(data.range_value).max()) for name, data in ranges.items()}


def _collect(
    network: Path,
    batches: Iterable[NDArray[Any]],
    operators: list[str],
    method: CalibrationMethod,
    options: dict[str, Any],
) -> TensorsData:
    name = onnx.load(network, load_external_data=False).graph.input[0].name
    augmented = network.with_suffix(".augmented.onnx")
    # The library tells what it does on standard output, which is the command's answer.
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            network, operators, str(augmented), calibrate_method=method, extra_options=options
        )
        pending: list[NDArray[Any]] = []
        for batch in batches:
            pending.append(batch)
            if len(pending) == _AT_ONCE:
                calibrator.collect_data(Batches(name, pending))
                pending = []
        if pending:
            calibrator.collect_data(Batches(name, pending))
        ranges = calibrator.compute_data()
    augmented.unlink()
    return ranges
