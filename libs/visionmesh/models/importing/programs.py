"""Exported programs of PyTorch (``.pt2``): what they say of themselves, read without PyTorch.

PyTorch loads pickles in them, calls whatever of its own functions they name, evaluates sizes and
guards as Python, writes names into source code that it then runs, and opens compiled libraries. So
a program is looked at before it is loaded, and one that wants more than tensors, operators and
arithmetic is refused.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from visionmesh.models.importing.pickles import require_harmless
from visionmesh.models.importing.wishes import misfit, unsafe
from visionmesh.models.spec import ModelSpec

DAMAGE = (
    *(RuntimeError, ValueError, LookupError, AssertionError, TypeError, AttributeError),
    *(EOFError, ImportError, MemoryError, OverflowError, UnpicklingError),
)
"""What `torch.export.load` raises for what it cannot make sense of."""
_MODEL = "models/model.json"
_MEMBERS = re.compile(
    r"data/(weights/(weight_\d+|model_weights_config\.json)|sample_inputs/model\.pt"
    r"|constants/(tensor_\d+|model_constants_config\.json))"
    r"|models/model\.json|archive_format|archive_version|byteorder|version|extra/.*"
    r"|\.data/(version|serialization_id)"
)
"""What `torch.export.save` writes; libraries and objects are more."""
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)(_?[a-z]\w*|__i?(and|or|xor|lshift|rshift)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|torch\.sym_(not|int|float|ite|max|min|sqrt)|math\.(trunc|ceil|floor|sqrt)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|getitem|eq|ne|lt|le|gt|ge"
    r"|and_|or_|not_|lshift|rshift)"
)
"""Operators on tensors and sizes; `from_file` reads any file."""
_NAME = re.compile(r"[\w.]*")
_NAMES = frozenset(
    {
        *("name", "as_name", "fqn", "graph_name", "parameter_name", "buffer_name"),
        *("tensor_constant_name", "forward_arg_names", "user_input_name"),
    }
)
_ARITHMETIC = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Tuple, ast.keyword),
    *(ast.boolop, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context),
)
_SIZE = re.compile(r"\bL(\['\w+'\])+(\.(size|stride)\(\)\[\d+\]|\.(dim|storage_offset)\(\))?")
"""How guards name the size of an input."""
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_DTYPES = {1: "uint8", 2: "int8", 4: "int32", 5: "int64", 6: "float16", 7: "float32"}
"""Of `torch._export.serde.schema.ScalarType`, those that ONNX networks have, too."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a program takes and gives."""

    shape: tuple[int | None, ...]
    """Of its input; `None` where it is free."""
    dtype: str
    outputs: tuple[str, ...] | None
    """The keys of the mapping that it returns; `None` if it returns something else."""


def read_interface(file: Path) -> Interface:
    """Return what the program in ``file`` takes and gives, after `require_safe_program`.

    Raises
    ------
    ConfigurationError
        (model_unsafe) if loading or running it would run code, or a release of PyTorch before 2.8
        wrote it; (model_invalid) if it is damaged, or does not take one tensor.
    """
    require_safe_program(file)
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if member.partition("/")[2] == _MODEL:
                graph_module = json.loads(archive.read(member))["graph_module"]
                try:
                    return _interface(graph_module)
                except (KeyError, TypeError, IndexError, ValueError) as error:
                    raise misfit(
                        f"{file} must take one tensor, the images, and is written otherwise than "
                        f"PyTorch writes ({error!r}); export it again"
                    ) from error
    raise misfit(f"{file} is no exported program; write it with torch.export.save of PyTorch 2.8+")


def require_fitting(file: Path, spec: ModelSpec, outputs: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` unless the program takes and gives what the network does.

    Raises
    ------
    ConfigurationError
        As `read_interface`; (model_invalid) also if its input is not that of ``spec``, or its
        outputs are not named as those of ``model.onnx``.
    """
    program = read_interface(file)
    sizes = {"C": spec.input.channels, "H": spec.input.height, "W": spec.input.width}
    wanted = tuple(sizes[axis] for axis in spec.input.layout[1:])
    if program.shape[1:] != wanted or program.dtype != spec.input.dtype:
        raise misfit(
            f"{file} takes images of {program.dtype} {program.shape[1:]}, where model.yaml says "
            f"{spec.input.dtype} {wanted}; export it as model.onnx was"
        )
    if program.outputs is None or not set(outputs) <= set(program.outputs):
        raise misfit(
            f"{file} must return a mapping of tensors with the names of model.onnx's outputs, "
            f"{', '.join(outputs)}; it returns {', '.join(program.outputs or ('no mapping',))}"
        )


def _interface(graph_module: dict[str, Any]) -> Interface:
    specs = graph_module["signature"]["input_specs"]
    (given,) = [spec["user_input"]["arg"] for spec in specs if "user_input" in spec]
    meta = graph_module["graph"]["tensor_values"][given["as_tensor"]["name"]]
    spec = json.loads(graph_module["module_call_graph"][0]["signature"]["out_spec"])[1]
    named = spec["type"] in ("builtins.dict", "collections.OrderedDict")
    return Interface(
        shape=tuple(size.get("as_int") for size in meta["sizes"]),
        dtype=_DTYPES.get(meta["dtype"], f"type {meta['dtype']} of PyTorch"),
        outputs=tuple(map(str, json.loads(spec["context"]))) if named else None,
    )


def require_safe_program(file: Path) -> None:
    """Raise `ConfigurationError` if loading or running the program in ``file`` would run code.

    Raises
    ------
    ConfigurationError
        (model_unsafe) with what it wants; (model_invalid) if the file is damaged.
    """
    if not file.is_file() or not zipfile.is_zipfile(file):
        raise misfit(f"{file} is no exported program, or is cut short; export or copy it again")
    require_harmless(file)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        folder = names[0].partition("/")[0] if names else ""
        for name in names:
            top, _, member = name.partition("/")
            if top != folder or not _MEMBERS.fullmatch(member):
                raise unsafe(
                    f"{file} has the member {name!r}, which is no part of a program as PyTorch "
                    "writes it since 2.8; export it again"
                )
            if name.endswith(".json"):
                _require_plain(file, archive.read(name))


def _require_plain(file: Path, content: bytes) -> None:
    try:
        found = next(_findings(json.loads(content)), None)
    except (ValueError, RecursionError) as error:
        raise misfit(f"{file} is damaged ({error}); copy it again") from error
    if found is not None:
        what, text = found
        raise unsafe(
            f"{file} wants to run code as {what}: {text[:80]!r}; "
            "export it again where it was made, with operators of PyTorch only"
        )


def _findings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield what is no plain part of a program, and where it stands."""
    if isinstance(value, list):
        for one in value:
            yield from _findings(one)
    if not isinstance(value, dict):
        return
    if "target" in value and not _TARGET.fullmatch(str(value["target"])):
        yield "an operator", str(value["target"])
    for key, inner in value.items():
        yield from _finding(key, inner)
        yield from _findings(inner)


def _finding(key: str, inner: Any) -> Iterator[tuple[str, str]]:
    texts = [text for text in (inner if isinstance(inner, list) else [inner]) if text is not None]
    if key in _NAMES:
        yield from (("a name", str(text)) for text in texts if not _is_name(text))
    elif key in ("expr_str", "guards_code"):
        what = "a size" if key == "expr_str" else "a guard"
        yield from ((what, str(text)) for text in texts if not _is_arithmetic(str(text)))
    elif key in ("tensor_values", "sym_int_values", "sym_bool_values", "range_constraints"):
        yield from (("a name", str(name)) for name in inner or () if not _is_name(name))
    elif key in ("in_spec", "out_spec"):
        yield from (("a container", str(text)) for text in texts if not _is_spec(text))
    elif key == "custom_obj_values" and inner:
        yield "an object", str(next(iter(inner)))
    elif key == "use_pickle" and inner:
        yield "a pickle", "use_pickle"


def _is_name(text: Any) -> bool:
    return not isinstance(text, str) or _NAME.fullmatch(text) is not None


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(_SIZE.sub("1", text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_plain, ast.walk(tree)))


def _is_plain(part: ast.AST) -> bool:
    """Say whether a part of an expression makes or compares symbols and numbers, and no more."""
    match part:
        case ast.Call(func=called):  # functions have small letters, unlike symbols
            return isinstance(called, ast.Name) and called.id[0].isupper()
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            return "__" not in name and re.fullmatch(r"\w+", name) is not None
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case _:
            return isinstance(part, _ARITHMETIC)


def _is_spec(text: Any) -> bool:
    try:
        _, spec = json.loads(text)
        return _is_container(spec)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_container(spec: dict[str, Any]) -> bool:
    """Say whether nothing but plain containers is made of an answer; others are imported."""
    keys = json.loads(spec["context"] or "null") or []
    return (
        spec["type"] in _CONTAINERS
        and isinstance(keys, list)
        and all(isinstance(key, (str, int)) for key in keys)
        and all(map(_is_container, spec["children_spec"]))
    )
