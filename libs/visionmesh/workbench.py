"""One model on a bench, without a mesh: the very functions of the stages, called one by one.

`verify`, `optimize` and `compare` try a model out with it. It is the only part of the library that
reaches into the services: what is measured here must be what is served there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.infer.engines import Engine, Outputs, open_engines
from services.infer.pixels import PixelWriter
from services.postprocess.decoders import load_decoder
from services.preprocess.decode import open_image
from services.preprocess.pixels import Prepared, prepare
from services.preprocess.resize import fit
from visionmesh.contracts import Answer, Params
from visionmesh.cores import usable_cores
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

MAX_PIXELS = 200_000_000
"""Of one image, as preprocess takes them by default."""


def cores() -> int:
    """Return how many cores a worker would use here."""
    return usable_cores()


class Sample(NamedTuple):
    """One image, ready for the engine."""

    pixels: NDArray[np.uint8]
    """``(height, width, channels)`` in the colour order of the model's input."""
    facts: Prepared


class Workbench:
    """Decodes images, runs engines and reads their outputs as the mesh does for ``spec``."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._writer = PixelWriter(spec.input)
        self._decoder = load_decoder(spec)

    def sample(self, encoded: bytes) -> Sample:
        """Return an encoded image as input pixels; raise `Reject` if it cannot be decoded."""
        size = self.spec.input
        pixels = np.empty((size.height, size.width, size.channels), np.uint8)
        return Sample(pixels, prepare(encoded, size, pixels, max_pixels=MAX_PIXELS))

    def original(self, encoded: bytes) -> NDArray[np.uint8]:
        """Return an encoded image as large as it is, upright: ``(H, W, C) uint8``, as the input.

        Raises `Reject` if it cannot be decoded.
        """
        image = open_image(encoded, max_pixels=MAX_PIXELS)
        return image.unpack(self.spec.input.color, None)

    def fit(self, original: NDArray[np.uint8]) -> Sample:
        """Return what `original` returned as input pixels.

        `sample` may differ: it decodes a JPEG smaller where that suffices.
        """
        height, width, channels = original.shape
        size = self.spec.input
        pixels = np.empty((size.height, size.width, channels), np.uint8)
        place = fit(original, (width, height), size, pixels)
        return Sample(pixels, Prepared(width, height, place))

    def tensor(self, samples: Sequence[Sample]) -> NDArray[Any]:
        """Return what the network takes, in the layout and dtype of its input, for these images."""
        batch = self._writer.batch(len(samples))
        for sample, target in zip(samples, batch, strict=True):
            self._writer.write(sample.pixels, target)
        return batch

    def open(
        self,
        weights: Path,
        instance: Instance | None = None,
        *,
        engine: str | None = None,
        precision: Precision = Precision.FP32,
    ) -> Engine:
        """Return a warm engine; raise `ConfigurationError` (model_invalid) if it cannot be made.

        Without ``engine`` it is the device's usual one.
        """
        (opened,) = self.open_all(weights, instance, count=1, engine=engine, precision=precision)
        opened.warm()
        return opened

    def open_all(
        self,
        weights: Path,
        instance: Instance | None = None,
        *,
        count: int,
        engine: str | None = None,
        precision: Precision = Precision.FP32,
    ) -> tuple[Engine, ...]:
        """Return ``count`` cold engines that may run at the same time, each in one thread."""
        return open_engines(
            *(weights, self.spec, instance or Instance()),
            count=count,
            engine=engine,
            precision=precision,
        )

    def read(self, outputs: Outputs, index: int, sample: Sample, params: Params) -> Answer:
        """Return the answer for image ``index`` of a batch of outputs."""
        features = self._decoder.reduce({name: array[index] for name, array in outputs.items()})
        facts = sample.facts
        return self._decoder.answer(features, params, facts.placement, facts.width, facts.height)
