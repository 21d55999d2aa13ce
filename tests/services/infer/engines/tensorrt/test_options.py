"""What people write of TensorRT in a model's description, and what must be installed for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from services.infer.engines import open_engines
from services.infer.engines.tensorrt.options import BuildOptions, Options
from services.infer.engines.tensorrt.runtime import load_runtime
from visionmesh.errors import ConfigurationError
from visionmesh.models.spec import Instance, ModelSpec


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"profiles": "some"}, "options.profiles"),
        ({"level": 9}, "options.level"),
        ({"fp16": True}, "options.fp16"),
    ],
)
def test_options_that_do_not_fit_are_named(
    spec: ModelSpec, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Options.of(spec, Instance(device="cuda", options=options))


def test_options_are_read_as_people_write_them(spec: ModelSpec) -> None:
    options = Options.of(
        spec,
        Instance(device="cuda", options={"workspace": "1GiB", "timeout": "90s", "profiles": "one"}),
    )
    assert options.build == BuildOptions(workspace=1 << 30, profiles="one")
    assert options.timeout.total_seconds() == 90


def test_without_tensorrt_it_is_said_how_to_get_it(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ConfigurationError, match=r"run: pip install 'visionmesh\[tensorrt\]'"):
        open_engines(
            tmp_path / "model.onnx", spec, Instance(device="cuda"), count=1, engine="tensorrt"
        )


def test_a_release_without_what_is_needed_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__dict__.update(__version__="8.6.1", IExecutionContext=object)
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(ConfigurationError, match=r"tensorrt 8\.6\.1 is too old"):
        load_runtime("tensorrt")
