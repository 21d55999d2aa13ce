"""Decoders of JPEG for tests: they need no driver."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg

from services.preprocess.formats.header import Color, Data
from services.preprocess.gpu.decoding import OnDevice
from services.preprocess.gpu.fit import Stored
from visionmesh.gpu import Gpu, Stream


class TurboDecoder:
    """Decodes by libjpeg-turbo, always at full size, and uploads; fails at what is damaged."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def decode(
        self, encoded: Sequence[Data], color: Color, stream: Stream
    ) -> list[OnDevice | None]:
        return [self._decode(one, color) for one in encoded]

    def _decode(self, encoded: Data, order: Color) -> OnDevice | None:
        try:
            pixels = simplejpeg.decode_jpeg(encoded, order)
        except ValueError:
            return None
        device = self._gpu.xp.empty(pixels.shape, np.uint8)
        self._gpu.upload(pixels, device)
        # An upload may be under way until the stream is waited for.
        return OnDevice(Stored.of(self._gpu, device, order), (device, pixels))
