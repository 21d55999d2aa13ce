"""SavedModels and TensorFlow Lite files, through tf2onnx."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.graphs import OPSET
from visionmesh.models.importing.wishes import misfit

_PACKAGES = ("tensorflow", "tf2onnx")


def convert(source: Path, target: Path) -> None:
    """Write the SavedModel folder or ``.tflite`` file ``source`` as ONNX to ``target``.

    The conversion runs in a process of its own: TensorFlow's threads, logs and memory end with it.

    Raises
    ------
    ConfigurationError
        (settings_invalid) if the extra ``tensorflow`` is not installed; (model_invalid) if the
        network cannot be converted.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"{source} is TensorFlow's, and this is not installed: {', '.join(missing)}; "
            "pip install 'visionmesh[tensorflow]'.",
        )
    kind = "--saved-model" if source.is_dir() else "--tflite"
    command = [sys.executable, "-m", "tf2onnx.convert", kind, str(source)]
    done = subprocess.run(
        [*command, "--output", str(target), "--opset", str(OPSET)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not target.is_file():
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
        raise misfit(
            f"{source} cannot be converted: {last.strip().rstrip('.')}; see whether it loads at all"
        )
