"""Whatever is wrong with a source, one or two plain sentences say so, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper
from onnx.numpy_helper import from_array

from tests.networks import save_network
from tests.visionmesh.models.importing.heads import Head, logits, network, save
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing import Wishes, import_model
from visionmesh.models.spec import Task

NOISE = re.compile(r"\.\.|[.?:;,] ?[.;,]|\?\.|\n|  |ONNXRuntimeError|\.cc:|\*|weights_only|miniz")
SENTENCES = 4
"""The longest: what it wants, that it was not loaded, and two ways out of it."""
LONGEST = 450
SIZE = {"input.width": 16, "input.height": 16}

Change = Callable[[ModelProto], Any]


def message(source: Path | str, folder: Path, **wishes: Any) -> ConfigurationError:
    wanted = Wishes(**{"name": "parts", "task": Task.CLASSIFICATION, **wishes})
    with pytest.raises(ConfigurationError) as raised:
        import_model(str(source), wanted, models=folder / "models")
    return raised.value


def require_plain(error: ConfigurationError, folder: Path) -> None:
    told = error.message.replace(str(folder), "")
    assert error.code in {Code.MODEL_INVALID, Code.MODEL_UNSAFE}
    assert told.endswith(".")
    assert not NOISE.search(told.removesuffix(".")), told
    assert len(re.findall(r"\.(?: |$)", told)) <= SENTENCES
    assert len(told) <= LONGEST, told
    assert not [entry for entry in (folder / "models").iterdir() if entry.name != "parts"]


def multiplied_by_nan(model: ModelProto) -> None:
    model.graph.node[-1].output[0] = "whole"
    model.graph.initializer.append(from_array(np.array(np.nan, np.float32), "nan"))
    model.graph.node.append(helper.make_node("Mul", ["whole", "nan"], ["scores"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 99), "export it with a lower opset"),
        (lambda m: setattr(m.opset_import[0], "version", 27), "those up to 26 are known"),
        (lambda m: setattr(m, "ir_version", 99), "IR version"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Fold"), r"no engine knows: Fold"),
        (lambda m: setattr(m.graph.node[0], "domain", "org.example"), "no engine knows"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "gone"), "'gone' is not a graph input"),
        (
            lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234"),
            "size mismatch; export it again",
        ),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -4), "export it again"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "export it again"),
        (lambda m: m.graph.ClearField("output"), "holds no network"),
        (lambda m: m.graph.ClearField("input"), "must have one input"),
        (lambda m: m.graph.input[0].ClearField("type"), "has 0 dimensions"),
        (multiplied_by_nan, "gives NaN or infinity in scores"),
    ],
)
def test_a_faulty_network_is_told_in_plain_words(tmp_path: Path, change: Change, said: str) -> None:
    file = save_network(tmp_path / "best.onnx")
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    error = message(file, tmp_path)
    assert re.search(said, error.message), error.message
    require_plain(error, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n", "there are 1 labels .* tells 3 classes apart"),
        ("\n", "is empty"),
        (None, r"labels\.json is no file"),
        ("{0: a, 2: b}", "indices must run from 0 to 1"),
        ("[a, b", "holds no labels"),
        ("3", "must be a list of names"),
    ],
)
def test_labels_that_do_not_fit_are_told_in_plain_words(
    tmp_path: Path, text: str | None, said: str
) -> None:
    lines = text is not None and text[0] in "a\n"
    labels = tmp_path / ("labels.txt" if lines else "labels.json")
    if text is not None:
        labels.write_text(text)
    source = save(network({"scores": Head(logits(3))}), tmp_path / "best.onnx")
    error = message(source, tmp_path, labels=labels)
    assert re.search(said, error.message), error.message
    require_plain(error, tmp_path)


OWN = """
import torch

def net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )

def flat():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 2))

def failing():
    raise RuntimeError("no disk.\\nmore of it")

def wanting(name):
    return net()

def looking():
    return {}["x"]

nothing = 3
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net", "--weights names .*, which is not there"),
        ("flat", r"fails on images of shape \(2, 3, 16, 16\): RuntimeError: mat1"),
        ("failing", r"cannot be called: RuntimeError: no disk \(own_nets\.py, line 13\);"),
        ("wanting", "missing 1 required positional argument: 'name'; name a function"),
        ("looking", "KeyError: 'x'"),
        ("gone", "has no attribute 'gone'"),
        ("nothing", "TypeError"),
        ("torch", "TypeError"),
    ],
)
def test_a_function_that_fails_is_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    pytest.importorskip("torch", reason="exporting needs the extra `tune`")
    pytest.importorskip("onnxscript", reason="exporting needs the extra `tune`")
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "gone.pth" if name == "net" else None
    error = message(f"own_nets:{name}", tmp_path, weights=weights, values=SIZE)
    assert re.search(said, error.message), error.message
    require_plain(error, tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "cannot be read: it is damaged"),
        ("text", "cannot be read: it is damaged"),
        ("cut", "as it is cut short"),
        ("list", "holds a list and no state dict"),
        ("few", 'do not fit the network: Missing key.*"0.bias"'),
        ("code", "wants to run code: own_codes.run"),
    ],
)
def test_weights_that_cannot_be_used_are_told_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    torch = pytest.importorskip("torch", reason="exporting needs the extra `tune`")
    pytest.importorskip("onnxscript", reason="exporting needs the extra `tune`")
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "w.pth"
    content = {"list": [1], "few": {"0.weight": torch.zeros(4, 3, 3, 3)}}
    torch.save(content.get(kind, {}), weights)
    whole = weights.read_bytes()
    begun = {"empty": b"", "text": b"weights", "cut": whole[: len(whole) // 2]}
    weights.write_bytes(begun.get(kind, b"cown_codes\nrun\n(tR." if kind == "code" else whole))
    error = message("own_nets:net", tmp_path, weights=weights, values=SIZE)
    assert re.search(said, error.message), error.message
    require_plain(error, tmp_path)
