"""JPEG by nvImageCodec: the GPU's own decoder where it has one, else its cores.

What it makes of an image differs from libjpeg-turbo by a few grey levels; colours are interpolated
as there (``fancy_upsampling``). Damage within the compressed data may go unnoticed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from nvidia import nvimgcodec

from services.preprocess.formats.header import Color, Data
from services.preprocess.gpu.decoding import OnDevice
from services.preprocess.gpu.fit import Stored
from visionmesh.gpu import Stream

_KINDS: Final = (
    nvimgcodec.BackendKind.HW_GPU_ONLY,
    nvimgcodec.BackendKind.GPU_ONLY,
    nvimgcodec.BackendKind.HYBRID_CPU_GPU,
)
"""In this order. Not ``CPU_ONLY``: what is decoded on the CPU goes its own, shorter way."""
_THREADS: Final = 1
"""For Huffman's codes where the cores decode; each worker thread has a decoder."""
_OPTIONS: Final = ":fancy_upsampling=1"


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
            max_num_cpu_threads=_THREADS,
            backends=[nvimgcodec.Backend(kind) for kind in _KINDS],
            options=_OPTIONS,
        )
        self._grey = _parameters(nvimgcodec.ColorSpec.GRAY, nvimgcodec.SampleFormat.I_Y)
        self._colour = _parameters(nvimgcodec.ColorSpec.SRGB, nvimgcodec.SampleFormat.I_RGB)

    def decode(
        self, encoded: Sequence[Data], color: Color, stream: Stream
    ) -> list[OnDevice | None]:
        """Decode JPEGs to grey if ``color`` is GRAY, else to RGB; `None` for what fails."""
        images = self._decoder.decode(
            [nvimgcodec.CodeStream(np.frombuffer(one, np.uint8)) for one in encoded],
            params=self._grey if color == "GRAY" else self._colour,
            cuda_stream=stream.pointer,
        )
        order: Color = "GRAY" if color == "GRAY" else "RGB"
        return [image and OnDevice(_stored(image, order), image) for image in images]


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
        plane=1,
        order=order,
    )
