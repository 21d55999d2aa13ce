from __future__ import annotations

import sys
from pathlib import Path

import pytest

from services.infer.engines import ENGINES, USUAL, open_engines
from tests.networks import describe, save_network
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Instance


def test_every_device_is_served_by_engines_that_there_are() -> None:
    assert USUAL.keys() == ENGINES.keys()
    for kind, engines in USUAL.items():
        assert set(engines) <= ENGINES[kind].keys()


def test_a_device_that_nothing_serves_is_named(tmp_path: Path) -> None:
    for device in ("abacus:0", "cuda:x", "cuda:"):
        with pytest.raises(ConfigurationError, match=f"no engine serves the device '{device}'"):
            open_engines(tmp_path / "m.onnx", describe(), Instance(device=device), count=1)


def test_options_that_no_engine_of_the_device_has_are_refused(tmp_path: Path) -> None:
    instance = Instance(engines=("openvino", "onnxruntime"), options={"use_tf32": True})
    with pytest.raises(ConfigurationError, match="options: openvino, onnxruntime on the CPU"):
        open_engines(tmp_path / "m.onnx", describe(), instance, count=1)


def test_an_engine_that_is_not_installed_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_network(tmp_path / "m.onnx")
    monkeypatch.delitem(sys.modules, "services.infer.engines.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigurationError, match="pip install openvino") as raised:
        open_engines(file, describe(), Instance(), count=1, engine="openvino")
    assert raised.value.code is Code.MODEL_INVALID
