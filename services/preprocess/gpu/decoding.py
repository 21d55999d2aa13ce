"""Who decodes JPEGs on a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from services.preprocess.formats.header import Color, Data
from services.preprocess.gpu.fit import Stored
from visionmesh.gpu import Gpu, Stream

log = logging.getLogger(__name__)


class OnDevice(NamedTuple):
    """A decoded picture."""

    stored: Stored
    """RGB or grey; as it was encoded, not turned."""
    memory: object
    """Keeps its pixels alive."""


class JpegDecoder(Protocol):
    """Decodes on one device; used by one thread at a time."""

    def decode(
        self, encoded: Sequence[Data], color: Color, stream: Stream
    ) -> list[OnDevice | None]:
        """Decode JPEGs to ``color``, which is RGB or GRAY; `None` for what fails.

        Pixels are there for what is enqueued on ``stream`` from now on.
        """


def open_jpeg_decoder(gpu: Gpu) -> JpegDecoder | None:
    """Return what decodes JPEGs on ``gpu``; `None`, and why in the log, if the CPU has to."""
    if gpu.info.kind != "cuda":
        return None
    try:
        from services.preprocess.gpu.nvimgcodec import (  # noqa: PLC0415 - only where GPUs are
            NvJpegDecoder,
        )

        return NvJpegDecoder(device=gpu.info.index)
    except (ImportError, RuntimeError) as error:
        # RuntimeError is what nvImageCodec raises for everything.
        log.warning("JPEGs are decoded on the CPU, as nvImageCodec cannot be used: %s", error)
        return None
