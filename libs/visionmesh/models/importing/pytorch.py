"""Networks of PyTorch: made by a function, exported programs, and TorchScript."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from visionmesh.errors import OWN_ERRORS, Code, ConfigurationError
from visionmesh.models.graphs import OPSET, fixed_batch
from visionmesh.models.importing.complaints import complaint
from visionmesh.models.importing.originals import Original, quiet
from visionmesh.models.importing.pickles import require_harmless
from visionmesh.models.importing.probe import BATCHES, Outputs, Runner, agree, first_line, images
from visionmesh.models.importing.programs import DAMAGE, require_safe_program
from visionmesh.models.importing.reading import read_onnx, require_size
from visionmesh.models.importing.statedicts import fill
from visionmesh.models.importing.wishes import misfit

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_INPUT = "images"
_BATCH = "N"


def convert(
    source: str, weights: Path | None, shape: tuple[int, ...] | None, target: Path
) -> Original | None:
    """Write a network of PyTorch as ONNX to ``target``, with a free batch if it allows that.

    Return the network itself, unless it is TorchScript, of which no exported program can be made.

    ``source`` is ``module:callable`` or a file; ``shape`` is that of one image, and may be `None`
    for an exported program, which knows it.

    Raises
    ------
    ConfigurationError
        (settings_invalid) if the extra ``tune`` is not installed; (model_unsafe) if loading would
        run code; (model_invalid) if the network cannot be exported, or says something else as ONNX.
    """
    require_torch(source)
    with quiet():
        network, shape = _load(source, weights, shape)
        require_size(source, sum(tensor.nbytes for tensor in _tensors(network)))
        _export(network, shape, target)
        names = _require_parity(network, shape, target)
    if _is_script(network):
        return None
    return Original(network=network, names=names)


def _is_script(network: Any) -> bool:
    import torch  # noqa: PLC0415 - it is large, and an extra

    return isinstance(network, torch.jit.ScriptModule)


def require_torch(source: str) -> None:
    """Raise `ConfigurationError` (settings_invalid) if PyTorch and its exporter are missing."""
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"{source} is PyTorch's, and this is not installed: {', '.join(missing)}; "
            "pip install 'visionmesh[tune]'.",
        )


def _load(
    source: str, weights: Path | None, shape: tuple[int, ...] | None
) -> tuple[Any, tuple[int, ...]]:
    """Return the network, ready to be exported, and the shape of one image."""
    file = Path(source)
    if CALLABLE.fullmatch(source) and not file.exists():
        return _made(source, weights), _required(shape)
    if weights is not None:
        raise misfit("--weights belongs to module:callable; leave it out")
    if not zipfile.is_zipfile(file):
        require_harmless(file)
        raise misfit(_only_weights(file))
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return _script(file), _required(shape)
        require_harmless(file)
        if any("/models/" in name or "exported_program" in name for name in names):
            require_safe_program(file)
            return _program(file)
    raise misfit(_only_weights(file))


def _only_weights(file: Path) -> str:
    return (
        f"{file} holds weights and no network; name what makes the network, as in "
        f"visionmesh import module:callable --weights {file.name}"
    )


def _tensors(network: Any) -> Iterator[Any]:
    state = network.state_dict
    stored = state() if callable(state) else state  # an exported program has it as a property
    return (value for value in stored.values() if hasattr(value, "nbytes"))


def _required(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is None:
        raise misfit(
            "this network does not tell the size of its images; say it with --input, such as "
            "--input 640 or --input 640x480 (width, height)"
        )
    return shape


def _made(source: str, weights: Path | None) -> Any:
    """Call ``module:callable``, which may lie in the working directory."""
    import torch  # noqa: PLC0415 - it is large, and an extra

    module, _, name = source.partition(":")
    sys.path.insert(0, "")
    try:
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        network = made if isinstance(made, torch.nn.Module) else made()
    except OWN_ERRORS as error:
        raise misfit(
            f"{source} cannot be called: {complaint(error)}; "
            "name a function that returns the network, and needs no arguments"
        ) from error
    finally:
        sys.path.remove("")
    if not isinstance(network, torch.nn.Module):
        raise misfit(f"{source} returns {type(network).__name__}; it must return an nn.Module")
    if weights is not None:
        fill(network, weights)
    return network.eval()


def _script(file: Path) -> Any:
    import torch  # noqa: PLC0415 - as above

    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise misfit(
            f"{file} is no TorchScript that loads: {first_line(error)}; save it again"
        ) from error


def _program(file: Path) -> tuple[Any, tuple[int, ...]]:
    import torch  # noqa: PLC0415 - as above

    try:
        program = torch.export.load(file)
    except DAMAGE as error:
        raise misfit(
            f"{file} is no exported program that loads: {first_line(error)}; save it again"
        ) from error
    example: Any = program.example_inputs or ((), {})
    inputs, named = example
    if len(inputs) != 1 or named or not isinstance(inputs[0], torch.Tensor):
        raise misfit(
            f"{file} must take one input, the images, and have an example of it; export it so"
        )
    return program, tuple(inputs[0].shape[1:])


def _export(network: Any, shape: tuple[int, ...], target: Path) -> None:
    """Write ``network`` to ``target``, with a free batch if that can be."""
    import torch  # noqa: PLC0415 - as above

    failure: Exception | None = None
    for way in _ways(network, shape):
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                torch.onnx.export(network, f=str(target), external_data=False, verbose=False, **way)
        except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            failure = failure or error
            continue
        # A network that computes with the batch's size may get that of the example for good.
        if fixed_batch(read_onnx(target)) in (None, 1):
            return
    if failure is not None:
        raise misfit(
            f"the network cannot be exported to ONNX: {_reason(failure)}; "
            "write it without what depends on the images' content"
        ) from failure


def _ways(network: Any, shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield options of the exporter, the best first."""
    import torch  # noqa: PLC0415 - as above

    several = torch.from_numpy(images(2, shape, "float32"))
    if isinstance(network, torch.jit.ScriptModule):
        # The newer exporter takes no TorchScript.
        yield {
            "args": (several,),
            "dynamo": False,
            "opset_version": OPSET,
            "dynamic_axes": {_INPUT: {0: _BATCH}},
            "input_names": [_INPUT],
        }
    elif isinstance(network, torch.nn.Module):
        names = {"input_names": [_INPUT], "output_names": _output_names(network, (several,))}
        batch = torch.export.Dim(_BATCH)
        free = {"dynamo": True, "dynamic_shapes": ({0: batch},)}
        yield {"args": (several,), **free, **names}
        yield {"args": (several[:1],), "dynamo": True, **names}
    else:
        yield {"args": (), "dynamo": True}  # an exported program has its own


def _output_names(network: Any, example: Any) -> list[str] | None:
    """Return the keys of an answer that is a mapping."""
    import torch  # noqa: PLC0415 - as above

    try:
        with torch.no_grad():
            answer = network(*example)
    except OWN_ERRORS as error:
        raise misfit(
            f"the network fails on images of shape {tuple(example[0].shape)}: "
            f"{complaint(error)}; it must take one batch, of the size that --input names"
        ) from error
    return [str(key) for key in answer] if isinstance(answer, Mapping) else None


def _reason(error: Exception) -> str:
    """Return the innermost cause in one line; the exporter wraps it in much advice."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)


def _require_parity(network: Any, shape: tuple[int, ...], file: Path) -> tuple[str, ...]:
    """Raise `ConfigurationError` (model_invalid) unless ONNX says what PyTorch says.

    Return the names that the outputs have in ONNX.
    """
    model = read_onnx(file)
    fixed, runner = fixed_batch(model), Runner(model)
    for size in BATCHES if fixed is None else (fixed,):
        batch = images(size, shape, "float32")
        answer = runner(batch)
        if not agree(_answers(network, batch, list(answer)), answer):
            raise misfit(
                "the exported network says something else than the original (batch of "
                f"{size}); write it without random numbers and plain numbers from its input"
            )
    return tuple(output.name for output in model.graph.output)


def _answers(network: Any, batch: np.ndarray[Any, Any], names: list[str]) -> Outputs:
    import torch  # noqa: PLC0415 - as above
    from torch.utils import _pytree  # noqa: PLC0415 - what the exporter flattens answers with

    module = network.module() if isinstance(network, torch.export.ExportedProgram) else network
    with torch.no_grad():
        leaves = _pytree.tree_leaves(module(torch.from_numpy(batch)))
    arrays = [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return dict(zip(names, arrays, strict=False))
