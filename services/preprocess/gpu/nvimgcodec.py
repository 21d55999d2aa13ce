"""JPEG by nvImageCodec: the GPU's own decoder where it has one, else its cores.

What it makes of an image differs from libjpeg-turbo by a few grey levels; colours are interpolated
as there (``fancy_upsampling``). Damage within the compressed data may go unnoticed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from nvidia import nvimgcodec

from services.preprocess.formats.header import Color, Data
from services.preprocess.gpu.decoding import OnDevice
from services.preprocess.gpu.fit import Stored
from visionmesh.gpu import GpuError, Stream
from visionmesh.gpu.gpu import GpuMemoryError

_KINDS: Final = (
    nvimgcodec.BackendKind.HW_GPU_ONLY,
    nvimgcodec.BackendKind.GPU_ONLY,
    nvimgcodec.BackendKind.HYBRID_CPU_GPU,
)
"""In this order. Not ``CPU_ONLY``: what is decoded on the CPU goes its own, shorter way."""
_OPTIONS: Final = ":fancy_upsampling=1"
_FULL: Final = re.compile(r"CUDA Runtime failure:? '#2'")
"""How it tells cudaErrorMemoryAllocation: there is no other class of errors than RuntimeError."""


class NvJpegDecoder:
    """One decoder of nvImageCodec; used by one thread at a time.

    Raises
    ------
    RuntimeError
        If there is no driver, or it does not fit.
    """

    def __init__(self, *, device: int) -> None:
        self._decoder = nvimgcodec.Decoder(
            device_id=device,
            backends=[nvimgcodec.Backend(kind) for kind in _KINDS],
            options=_OPTIONS,
        )
        self._grey = _parameters(nvimgcodec.ColorSpec.GRAY, nvimgcodec.SampleFormat.I_Y)
        self._colour = _parameters(nvimgcodec.ColorSpec.SRGB, nvimgcodec.SampleFormat.I_RGB)

    def decode(
        self, encoded: Sequence[Data], color: Color, stream: Stream
    ) -> list[OnDevice | None]:
        """Decode JPEGs to ``color``, which is RGB or GRAY; `None` for what fails.

        What is returned must not outlive ``stream``, on which it is freed.

        Raises
        ------
        GpuError
            If it is not an image's fault.
        """
        sources = [_parsed(one) for one in encoded]
        try:
            images = self._decoder.decode(
                [source for source in sources if source is not None],
                params=self._grey if color == "GRAY" else self._colour,
                cuda_stream=stream.pointer,
            )
        except RuntimeError as error:
            kind = GpuMemoryError if _FULL.match(str(error)) else GpuError
            raise kind(str(error)) from error
        left = iter(images)
        decoded = (None if source is None else next(left) for source in sources)
        return [
            None if image is None else OnDevice(_stored(image, color), image) for image in decoded
        ]


def _parsed(encoded: Data) -> Any:
    """Return a stream whose header was read; `None` if that fails."""
    stream = nvimgcodec.CodeStream(np.frombuffer(encoded, np.uint8))
    try:
        # It is read when something of it is first asked for.
        return stream if stream.width else None
    except RuntimeError:
        return None


def _parameters(spec: Any, form: Any) -> Any:
    return nvimgcodec.DecodeParams(
        apply_exif_orientation=False, color_spec=spec, sample_format=form
    )


def _stored(image: Any, order: Color) -> Stored:
    about = image.__cuda_array_interface__
    height, width, channels = about["shape"]
    row, column, _ = about["strides"] or (width * channels, channels, 1)
    return Stored(
        address=about["data"][0],
        width=width,
        height=height,
        row=row,
        column=column,
        order=order,
    )
