"""What a source is, and how it becomes ONNX."""

from __future__ import annotations

from pathlib import Path

from visionmesh.models.importing import pytorch, tensorflow
from visionmesh.models.importing.originals import Original
from visionmesh.models.importing.reading import require_size
from visionmesh.models.importing.wishes import Draft, Wishes, misfit

_TORCH = {".pt2", ".pt", ".pth", ".ckpt", ".pkl", ".bin", ".ts", ".torchscript"}
_ELSEWHERE = {
    ".keras": "open it with Keras and write a SavedModel: model.export(folder)",
    ".h5": "open it with Keras and write a SavedModel: model.export(folder)",
    ".hdf5": "open it with Keras and write a SavedModel: model.export(folder)",
    ".pb": "give the folder of a SavedModel",
    ".engine": "it runs on one kind of GPU only; give the ONNX file that it was made of",
    ".plan": "it runs on one kind of GPU only; give the ONNX file that it was made of",
    ".safetensors": "it holds weights only; give module:callable that makes the network",
    ".mlmodel": "give the network that it was made of",
    ".mlpackage": "give the network that it was made of",
}
"""What cannot be imported, and what to do instead."""


def as_onnx(source: str, wishes: Wishes, draft: Draft, work: Path) -> tuple[Path, Original | None]:
    """Return the ONNX file that ``source`` is, or that is made of it in the folder ``work``.

    With it comes what it was made of, if that can be kept as an exported program.

    Raises
    ------
    ConfigurationError
        (model_invalid, model_unsafe) if ``source`` is nothing that can be imported;
        (settings_invalid) if an extra is missing.
    """
    path, suffix, target = Path(source), Path(source).suffix.lower(), work / "source.onnx"
    is_callable = pytorch.CALLABLE.fullmatch(source) is not None and not path.exists()
    if wishes.weights is not None and not is_callable:
        raise misfit("--weights belongs to module:callable; leave it out")
    if not is_callable:
        _require_there(path)
    if suffix == ".onnx":
        return path, None
    if is_callable or suffix in _TORCH:
        return target, pytorch.convert(source, wishes.weights, _shape(draft), target)
    if suffix == ".tflite" or (path / "saved_model.pb").is_file():
        tensorflow.convert(path, target)
    else:
        raise misfit(
            f"{source} cannot be imported: "
            + _ELSEWHERE.get(
                suffix,
                "a network is an .onnx, .pt2, .pt (TorchScript) or .tflite file, the folder of a "
                "SavedModel, or module:callable",
            )
        )
    return target, None


def _require_there(path: Path) -> None:
    if not path.exists():
        raise misfit(f"{path} is not there; name a file, a folder, or module:callable")
    if path.is_file():
        require_size(path, path.stat().st_size)


def _shape(draft: Draft) -> tuple[int, ...] | None:
    """Return what the user says of one image, channels first, as PyTorch has it."""
    width, height = draft.get("input.width"), draft.get("input.height")
    if width is None or height is None:
        return None
    return (1 if draft.get("input.color") == "GRAY" else 3, height, width)
