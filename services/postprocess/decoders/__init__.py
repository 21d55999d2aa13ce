"""Decoders: what a network's outputs mean.

A decoder is a file of this folder and a line of `DECODERS`, or a function of the user's own that
``output.decoder`` names as ``module:function``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from services.postprocess.decoders.anomaly import Anomaly
from services.postprocess.decoders.detr import Detr
from services.postprocess.decoders.embedding import Embedding
from services.postprocess.decoders.end2end import End2End
from services.postprocess.decoders.obb import Obb
from services.postprocess.decoders.protocol import Array, Arrays, Decoder
from services.postprocess.decoders.semantic import Semantic
from services.postprocess.decoders.softmax import Softmax
from services.postprocess.decoders.ssd import Ssd
from services.postprocess.decoders.yolov5 import YoloV5
from services.postprocess.decoders.yolov8 import YoloV8
from services.postprocess.decoders.yolov8_seg import YoloV8Seg
from services.postprocess.decoders.yolox import YoloX
from visionmesh.errors import OWN_ERRORS, Code, ConfigurationError
from visionmesh.models.spec import ModelSpec

__all__ = ["DECODERS", "Array", "Arrays", "Decoder", "load_decoder"]

DECODERS: Mapping[str, Callable[[ModelSpec], Decoder]] = MappingProxyType(
    {
        "anomaly": Anomaly,
        "detr": Detr,
        "embedding": Embedding,
        "end2end": End2End,
        "obb": Obb,
        "semantic": Semantic,
        "softmax": Softmax,
        "ssd": Ssd,
        "yolov5": YoloV5,
        "yolov8": YoloV8,
        "yolov8_seg": YoloV8Seg,
        "yolox": YoloX,
    }
)


def load_decoder(spec: ModelSpec) -> Decoder:
    """Return the decoder that ``spec.output`` names, ready for this model.

    A user's decoder is a function that takes the `ModelSpec` and returns a `Decoder`; it reads its
    parameters from ``spec.output.parameters`` and raises `ValueError` if they are wrong.

    Raises
    ------
    ConfigurationError
        (model_invalid) If there is no such decoder, or its parameters are not as it wants them.
    """
    try:
        decoder = _find(spec.output.decoder)(spec)
    except OWN_ERRORS as error:  # a decoder of a user's own must not end the worker
        # What else errors say means little without their names: that of a lookup is only the key.
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise _invalid(spec, said) from error
    if not isinstance(decoder, Decoder):
        raise _invalid(spec, f"it returned {type(decoder).__name__}, which is not a decoder")
    return decoder


def _find(name: str) -> Callable[[ModelSpec], Decoder]:
    module, colon, function = name.partition(":")
    if colon:
        build: Callable[[ModelSpec], Decoder] = getattr(importlib.import_module(module), function)
        return build
    if name not in DECODERS:
        raise ValueError(f"unknown: use {', '.join(sorted(DECODERS))} or module:function")
    return DECODERS[name]


def _invalid(spec: ModelSpec, why: str) -> ConfigurationError:
    return ConfigurationError(
        Code.MODEL_INVALID, f"Model {spec.name!r}, decoder {spec.output.decoder!r}: {why}."
    )
