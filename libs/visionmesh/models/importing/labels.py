"""Names of classes, in the forms in which people keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from visionmesh.models.importing.probe import first_line
from visionmesh.models.importing.wishes import misfit

_KEYS = ("names", "id2label", "labels", "classes")
"""Under which data sets and model cards tell their classes."""
_MOST_BYTES = 16 << 20


def read_labels(file: Path) -> tuple[str, ...]:
    """Return the labels in ``file``: one per line, or JSON or YAML with a list or a mapping.

    Raises
    ------
    ConfigurationError
        (model_invalid) if it is not there, or holds no labels.
    """
    if not file.is_file():
        raise misfit(f"{file} is no file; name one that has a label in each line")
    if file.stat().st_size > _MOST_BYTES:
        raise misfit(f"{file} is too large for a list of labels; give one label per line")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() in {".json", ".yaml", ".yml"}:
            return named(yaml.safe_load(text))
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise misfit(
            f"{file} holds no labels ({first_line(error)}); give one label per line"
        ) from error
    labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if not labels:
        raise misfit(f"{file} is empty; give one label per line")
    return labels


def named(value: Any) -> tuple[str, ...]:
    """Return the labels in a list, a mapping by index, or a mapping that holds one of these.

    Raises
    ------
    ValueError
        If there is a gap in the indices, or nothing of the kind.
    """
    if isinstance(value, dict):
        for key in _KEYS:
            if key in value:
                return named(value[key])
        try:
            numbered = {int(index): name for index, name in value.items()}
        except (TypeError, ValueError):
            raise ValueError(f"a mapping must be by index, or hold {', '.join(_KEYS)}") from None
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"the indices must run from 0 to {len(numbered) - 1}")
        value = [numbered[index] for index in range(len(numbered))]
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError("it must be a list of names")
    # ImageNet's index names the synset before the class.
    names = [entry[-1] if isinstance(entry, (list, tuple)) and entry else entry for entry in value]
    return tuple(" ".join(str(name).split()) for name in names)
