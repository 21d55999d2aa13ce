"""A model's folder: ``model.yaml``, the labels, and one subfolder per version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.faults import first_fault
from visionmesh.models.spec import ModelSpec
from visionmesh.subjects import require_token

SPEC_FILE = "model.yaml"
WEIGHTS_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
"""The same network as an exported program of PyTorch, beside ``model.onnx``; not all have one."""
CARD_FILE = "README.md"
CARD_LENGTH = 1000
"""Characters: what is shown of a model in a terminal."""
_NO_PROSE = ("#", "<", "!", "[!", "---")
"""Headings, HTML, pictures, badges and front matter."""


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model as it lies on disk, read and validated."""

    spec: ModelSpec
    versions: dict[int, Path]
    """The file ``model.onnx`` of each version, in ascending order."""
    card: str = ""
    """The first paragraph of ``README.md``, else the description; at most `CARD_LENGTH`."""

    def pick(self, version: int | None) -> tuple[int, Path]:
        """Return a version's number and network, by default those of the newest.

        Raises
        ------
        Refused
            (unknown_version) if the folder lacks it.
        """
        number = max(self.versions) if version is None else version
        if number not in self.versions:
            there = ", ".join(map(str, self.versions))
            raise Refused(
                Code.UNKNOWN_VERSION,
                f"The folder of {self.spec.name!r} has no version {number}; it has: {there}.",
            )
        return number, self.versions[number]


def load_folder(path: Path) -> ModelFolder:
    """Read the model that lies in the folder ``path``.

    Raises
    ------
    ConfigurationError
        (model_invalid) if a file is missing or ``model.yaml`` is not as it must be; the message
        names the file and the key, and says what to do.
    """
    path = path.resolve()
    shown = Path(path.parent.name) / path.name / SPEC_FILE
    values = _read_yaml(path / SPEC_FILE, shown)
    values.setdefault("name", path.name)
    if isinstance(values.get("labels"), str):
        values["labels"] = _read_labels(path, values["labels"], shown)
    try:
        spec = ModelSpec.model_validate(values)
        require_token("model", spec.name)
    except ValidationError as error:
        raise _invalid(shown, str(first_fault(error))) from error
    except Refused as error:
        raise _invalid(shown, f"name: {error.message.removesuffix('.')}") from error
    versions = _versions(path, shown.parent)
    _check_traffic(spec, shown)
    return ModelFolder(spec=spec, versions=versions, card=_card(path) or spec.description)


def _card(folder: Path) -> str:
    """Return the first paragraph of the folder's ``README.md`` that is no heading."""
    file = (folder / CARD_FILE).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8", errors="replace")
    for paragraph in text.replace("\r", "").split("\n\n"):
        lines = (line.strip() for line in paragraph.splitlines())
        prose = " ".join(line for line in lines if line and not line.startswith(_NO_PROSE))
        if prose:
            return prose[:CARD_LENGTH]
    return ""


def _read_yaml(file: Path, shown: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _invalid(shown, "there is no such file; a model's folder must hold one") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid(shown, f"the file cannot be read as YAML: {error}") from error
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise _invalid(shown, "the file must hold a mapping, such as `task: detection`")
    return dict(values)


def _read_labels(folder: Path, name: str, shown: Path) -> tuple[str, ...]:
    """Return the lines of a text file of the folder, without those at its end that are empty."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder):
        raise _invalid(shown, f"labels: {name!r} lies outside the model's folder; copy it there")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(
            shown, f"labels: {name!r} cannot be read as UTF-8 text with one label per line: {error}"
        ) from error
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _versions(folder: Path, shown: Path) -> dict[int, Path]:
    numbers = sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name.isascii() and entry.name.isdigit() and int(entry.name) > 0
    )
    if not numbers:
        raise _invalid(
            shown, f"no version found; put the network into {shown / '1' / WEIGHTS_FILE}"
        )
    versions = {}
    for number in numbers:
        file = (folder / str(number) / WEIGHTS_FILE).resolve()
        if not file.is_relative_to(folder):
            raise _invalid(shown / str(number), f"{WEIGHTS_FILE} links out of the model's folder")
        if not file.is_file():
            raise _invalid(shown / str(number), f"there is no {WEIGHTS_FILE}; add it")
        versions[number] = file
    return versions


def _check_traffic(spec: ModelSpec, shown: Path) -> None:
    for version, weight in spec.traffic.items():
        if not math.isfinite(weight) or weight < 0:
            raise _invalid(shown, f"traffic.{version}: a weight must be a number from 0 on")
    if spec.traffic and not sum(spec.traffic.values()):
        raise _invalid(shown, "traffic: at least one version must have a weight above 0")


def _invalid(shown: Path, what: str) -> ConfigurationError:
    return ConfigurationError(Code.MODEL_INVALID, f"{shown}: {what}.")
