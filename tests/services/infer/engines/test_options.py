"""What ``options`` of an instance say where it names several engines."""

from __future__ import annotations

import importlib

import pytest

from services.infer.engines.onnxruntime_provider import Options
from services.infer.engines.options import NAMES
from tests.services.infer.engines.samples import spec_of
from visionmesh.errors import ConfigurationError
from visionmesh.models.spec import Instance


def test_an_engine_leaves_the_options_of_the_others_to_them() -> None:
    instance = Instance(
        device="cuda",
        engines=("torch", "tensorrt", "onnxruntime"),
        options={"compile": True, "precision": "fp16", "use_tf32": False},
    )
    assert Options.of(spec_of(), instance) == Options(use_tf32=False)


@pytest.mark.parametrize("engines", [(), ("onnxruntime",), ("tensorrt", "onnxruntime")])
def test_an_option_that_none_of_the_engines_knows_is_refused(engines: tuple[str, ...]) -> None:
    instance = Instance(device="cuda", engines=engines, options={"compile": True})
    with pytest.raises(ConfigurationError, match=r"options\.compile"):
        Options.of(spec_of(), instance)


@pytest.mark.parametrize(
    ("engine", "module"),
    [
        ("onnxruntime", "services.infer.engines.onnxruntime_provider"),
        ("tensorrt", "services.infer.engines.tensorrt.options"),
        ("torch", "services.infer.engines.torch.options"),
    ],
)
def test_the_names_are_those_of_the_engines(engine: str, module: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="the engine's options are in terms of PyTorch")
    known = importlib.import_module(module).Options
    assert known.engine == engine
    assert set(NAMES[engine].split()) == known.model_fields.keys()
