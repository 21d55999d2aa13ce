"""Which layers must stay in float: measured one by one, and only where INT8 throughout hurts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs
from visionmesh.models.optimizing.int8 import Layer, Quantizer, Scheme
from visionmesh.models.pictures import Pictures
from visionmesh.models.trial import Subject, try_out
from visionmesh.workbench import Sample, Workbench

AIM = 0.995
"""Share of equal answers on the calibration images: half of what may be lost, as they are few."""

_GROUPS = 64
"""At most so many measurements: the layers of a deeper network are measured some at a time."""
_SAMPLES = 8
"""Images that each of them is measured on."""
_JUDGES = 100
"""Images that the answers are compared on."""
_ROUNDS = 6
"""Of leaving out 1, 2, 4, … groups: at most half of them, or INT8 is not worth it."""
_WITH_CHANNELS = 3
"""Axes of an output that has channels: batch, channels, places."""


class Search:
    """Quantises layers, looks what that does to the outputs, and leaves out the worst ones."""

    def __init__(
        self,
        *,
        quantizer: Quantizer,
        bench: Workbench,
        weights: Path,
        pictures: Pictures,
        scratch: Path,
        said: Callable[[str], None],
    ) -> None:
        self._quantizer = quantizer
        self._bench = bench
        self._reference = bench.open(weights)
        self._pictures = pictures
        self._scratch = scratch
        self._said = said

    def kept_in_float(self, scheme: Scheme) -> tuple[Layer, ...]:
        """Return the layers without which the answers agree, or as nearly as was found."""
        kept: tuple[Layer, ...] = ()
        best = self._agreement(scheme, kept)
        for exponent in range(_ROUNDS):
            count = 1 << exponent
            if best >= AIM or count > len(self._groups) / 2:
                break
            out = tuple(layer for group in self._ranking[:count] for layer in group)
            agreement = self._agreement(scheme, out)
            if agreement > best:
                best, kept = agreement, out
        return kept

    def _agreement(self, scheme: Scheme, out: Collection[Layer]) -> float:
        layers = [layer for layer in self._quantizer.layers if layer not in out]
        subject = Subject(bench=self._bench, engine=self._open(scheme, layers))
        reference = Subject(bench=self._bench, engine=self._reference)
        _, trials = try_out(reference, {"": subject}, islice(self._pictures, _JUDGES))
        answers = trials[""].agreement.answers
        self._said(f"{scheme}: {answers:.1%} agree with {len(out)} layers in float")
        return answers

    @cached_property
    def _groups(self) -> list[tuple[Layer, ...]]:
        layers = self._quantizer.layers
        parts = np.array_split(np.arange(len(layers)), min(_GROUPS, len(layers)))
        return [tuple(layers[index] for index in part) for part in parts]

    @cached_property
    def _ranking(self) -> list[tuple[Layer, ...]]:
        """The groups, those first that alone move the outputs most."""
        samples = [self._bench.sample(one.encoded) for one in islice(self._pictures, _SAMPLES)]
        expected = [self._reference.run([sample.pixels]) for sample in samples]
        errors = []
        for number, group in enumerate(self._groups, start=1):
            self._said(f"measuring layer group {number} of {len(self._groups)}")
            errors.append(_error(self._open("u8s8", group), samples, expected))
        return [self._groups[index] for index in np.argsort(errors)[::-1]]

    def _open(self, scheme: Scheme, layers: Iterable[Layer]) -> Engine:
        file = self._quantizer.write(self._scratch / "tried.onnx", scheme, layers)
        return self._bench.open(file)


def _error(engine: Engine, samples: Sequence[Sample], expected: Sequence[Outputs]) -> float:
    return float(
        np.mean(
            [
                distance(outputs, engine.run([sample.pixels]))
                for sample, outputs in zip(samples, expected, strict=True)
            ]
        )
    )


def distance(expected: Outputs, outputs: Outputs) -> float:
    """Return the error of the worst output, in parts of what was expected.

    Of outputs with several axes the error is taken channel by channel (the shortest axis is theirs)
    and averaged: a box's side in pixels must not drown a score.
    """
    return max(_relative(array, outputs[name]) for name, array in expected.items())


def _relative(expected: NDArray[Any], outputs: NDArray[Any]) -> float:
    channels = 0 if expected.ndim < _WITH_CHANNELS else 1 + int(np.argmin(expected.shape[1:]))
    wanted, got = (
        np.moveaxis(array.astype(np.float64), channels, 0).reshape(array.shape[channels], -1)
        for array in (expected, outputs)
    )
    size = np.linalg.norm(wanted, axis=1)
    error = np.linalg.norm(wanted - got, axis=1)
    return float(np.divide(error, size, out=np.zeros_like(error), where=size > 0).mean())
