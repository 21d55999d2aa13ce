"""Exported programs as strangers write them: what would run code is refused before it is loaded."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Document, document, written
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing.programs import Interface, read_interface


def test_what_a_program_takes_and_gives_is_read_without_pytorch(tmp_path: Path) -> None:
    file = written(tmp_path / "net.pt2", document())
    assert read_interface(file) == Interface(
        shape=(None, 3, 8, 6), dtype="float32", outputs=("scores",)
    )


def test_an_answer_without_names_is_told(tmp_path: Path) -> None:
    program = document()
    alone = json.dumps([1, {"type": None, "context": None, "children_spec": []}])
    program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = alone
    assert read_interface(written(tmp_path / "net.pt2", program)).outputs is None


def operator(name: str) -> Callable[[Document], None]:
    def change(program: Document) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = name

    return change


def size(text: str) -> Callable[[Document], None]:
    def change(program: Document) -> None:
        meta = program["graph_module"]["graph"]["tensor_values"]["x"]
        meta["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def named(name: str, change: Callable[[Document], None]) -> Callable[[Document], None]:
    """Return what does ``change``, and calls the input otherwise then."""

    def both(program: Document) -> None:
        change(program)
        values = program["graph_module"]["graph"]["tensor_values"]
        values[name] = values.pop("x")

    return both


def guard(text: str) -> Callable[[Document], None]:
    def change(program: Document) -> None:
        program["guards_code"] = [text]

    return change


def parameter(name: str) -> Callable[[Document], None]:
    def change(program: Document) -> None:
        spec = {"parameter": {"arg": {"name": "p"}, "parameter_name": name}}
        program["graph_module"]["signature"]["input_specs"].append(spec)

    return change


def container(kind: str, context: Any) -> Callable[[Document], None]:
    def change(program: Document) -> None:
        spec = [1, {"type": kind, "context": json.dumps(context), "children_spec": []}]
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        signature["out_spec"] = json.dumps(spec)

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (operator("torch.os.system"), r"an operator: 'torch\.os\.system'"),
        (operator("torch.ops.aten.from_file.default"), "an operator: 'torch.ops.aten.from_file"),
        (operator("torch.ops.own.touch.default"), "an operator: 'torch.ops.own"),
        (operator("_operator.methodcaller"), "an operator: '_operator.methodcaller'"),
        (operator("torch.ops.aten.__class__.mro"), "an operator: 'torch.ops.aten.__class__"),
        (operator("torch.ops.aten.add.__call__"), "an operator: 'torch.ops.aten.add.__call__"),
        (operator("#own.touch"), "an operator: '#own"),
        (size("__import__('os').system('touch it')"), "a size: "),
        (size("Symbol('s0').__class__"), "a size: "),
        (size("(exec)((chr)(105) + (chr)(100))"), "a size: "),
        (size("[exec][0]('id')"), "a size: "),
        (named("metadata", size("exec('id')")), "a size: "),
        (guard("__import__('os').system('touch it')"), "a guard: "),
        (guard("L['x'].size()[0] == 1 or L['x'].share_memory()"), "a guard: "),
        (guard("1) or (2"), "a guard: "),
        (parameter('w"); import os; os.system("touch it'), "a name: "),
        (container("collections.defaultdict", ["os", "system"]), "a container: "),
        (container("builtins.dict", [{"__enum__": True, "fqn": "os:abc"}]), "a container: "),
        (container("builtins.dict", {"__enum__": True, "fqn": "os:abc"}), "a container: "),
    ],
)
def test_a_program_that_would_run_code_is_refused(
    tmp_path: Path, change: Callable[[Document], None], what: str
) -> None:
    program = document()
    change(program)
    with pytest.raises(ConfigurationError, match=f"wants to run code as {what}") as raised:
        read_interface(written(tmp_path / "net.pt2", program))
    assert raised.value.code is Code.MODEL_UNSAFE


def test_letters_in_other_spelling_are_read_as_json_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    text = json.dumps(document()).replace('"expr_str": "Mul', '"expr\\u005fstr": "\\u005f_import__')
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/models/model.json", text)
    with pytest.raises(ConfigurationError, match=r"as a size: .__import__") as raised:
        read_interface(file)
    assert raised.value.code is Code.MODEL_UNSAFE


class _Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("loaded",)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("data/aotinductor/model/lib.so", b"\x7fELF", "has the member .*aotinductor"),
        ("data/constants/custom_obj_0", b"", "has the member .*custom_obj_0"),
        ("data/constants/opaque_obj_0", b"", "has the member .*opaque_obj_0"),
        ("data/sample_inputs/model.pt", pickle.dumps(_Call(), 2), r"run code: .*\.print"),
        (
            "data/weights/model_weights_config.json",
            b'{"config": {"metadata": {"path_name": "weight_0", "use_pickle": true}}}',
            "wants to run code as a pickle",
        ),
        ("Models/model.json", b"{}", "two members of one name"),
        ("../extra/data/aotinductor/model/lib.so", b"\x7fELF", "has the member"),
    ],
)
def test_an_archive_that_holds_code_is_refused(
    tmp_path: Path, member: str, content: bytes, message: str
) -> None:
    file = written(tmp_path / "net.pt2", document(), **{member: content})
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_interface(file)
    assert raised.value.code is Code.MODEL_UNSAFE


def test_the_folder_of_a_program_does_not_hide_what_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("extra/models/model.json", json.dumps(document()))
        archive.writestr("extra/data/aotinductor/model/lib.so", b"\x7fELF")
    with pytest.raises(ConfigurationError, match="has the member 'extra/data/aoti") as raised:
        read_interface(file)
    assert raised.value.code is Code.MODEL_UNSAFE


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "net.pt2"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is no exported program") as raised:
        read_interface(file)
    assert raised.value.code is Code.MODEL_INVALID


def test_a_program_of_two_inputs_is_refused(tmp_path: Path) -> None:
    program = document()
    inputs = program["graph_module"]["signature"]["input_specs"]
    inputs.append(inputs[0])
    with pytest.raises(ConfigurationError, match="must take one tensor") as raised:
        read_interface(written(tmp_path / "net.pt2", program))
    assert raised.value.code is Code.MODEL_INVALID
