from __future__ import annotations

import pytest

from services.postprocess.decoders import DECODERS, Decoder, load_decoder
from services.postprocess.decoders.softmax import Softmax
from tests.services.postprocess.reference import detector
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import ModelSpec


def build(spec: ModelSpec) -> Decoder:
    """A user's decoder that is particular about its parameters."""
    if spec.output.parameters["words"] != "please":
        raise ValueError("say please")
    return plain(spec)


class NotADecoder:
    def __init__(self, spec: ModelSpec) -> None:
        pass


def plain(spec: ModelSpec) -> Decoder:
    return Softmax(spec)


def broken(spec: ModelSpec) -> Decoder:
    raise spec.output.parameters["error"]


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_of_the_table_is_found(name: str) -> None:
    assert isinstance(load_decoder(detector(name, 2, size=(32, 32))), Decoder)


def test_a_users_own_decoder_is_found() -> None:
    spec = detector(f"{__name__}:plain", 2, size=(32, 32))
    assert isinstance(load_decoder(spec), Softmax)


@pytest.mark.parametrize(
    ("decoder", "parameters", "complaint"),
    [
        ("yolo", {}, ", ".join(sorted(DECODERS))),
        ("yolox", {"stride": [8]}, "stride is not known; there are floor, sigma, strides, tensor"),
        ("yolox", {"strides": [0]}, r"strides\.0"),
        ("yolov8", {"floor": 2}, "floor"),
        ("softmax", {"activation": "relu"}, "activation"),
        ("no_such_module:build", {}, "no_such_module"),
        ("math:no_such_function", {}, "no_such_function"),
        ("math:pi", {}, "callable"),
        ("math:sqrt", {}, "real number"),
        (":build", {}, "module"),
        (".relative:build", {}, "package"),
        (f"{__name__}:NotADecoder", {}, "NotADecoder"),
        (f"{__name__}:build", {}, "words"),
        (f"{__name__}:build", {"words": "now"}, "say please"),
        (f"{__name__}:broken", {"error": KeyError("priors")}, "KeyError: 'priors'"),
        (f"{__name__}:broken", {"error": FileNotFoundError(2, "None", "a.npy")}, r"'a\.npy'"),
        (f"{__name__}:broken", {"error": RuntimeError("no licence")}, "RuntimeError: no licence"),
    ],
)
def test_a_wrong_description_names_the_model_and_what_is_wrong(
    decoder: str, parameters: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_decoder(detector(decoder, 2, size=(32, 32), **parameters))
    assert caught.value.code is Code.MODEL_INVALID
    assert "'finder'" in caught.value.message
