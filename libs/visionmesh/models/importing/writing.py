"""Writes a model's folder: `model.yaml` for people to read, the labels, the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from visionmesh.models.folder import SPEC_FILE
from visionmesh.models.importing.wishes import Draft, Fact, Origin, flag

LABELS_FILE = "labels.txt"

_INPUT = (
    *("width", "height", "resize", "anchor", "color", "layout", "dtype"),
    *("scale", "mean", "std", "pad"),
)


def write_spec(folder: Path, draft: Draft, *, source: str, notes: Sequence[str]) -> None:
    """Write ``model.yaml`` and ``labels.txt`` into ``folder``."""
    labels = draft.get("labels")
    if labels:
        (folder / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")
    text = "\n".join(_lines(draft, source, notes)) + "\n"
    (folder / SPEC_FILE).write_text(text, encoding="utf-8")


def place(work: Path, folder: Path, *, replace: bool) -> int:
    """Move the model in ``work`` to ``folder`` and return its version: the next that is free.

    A ``model.yaml`` that is there stays, unless the model is to be replaced: then spec, labels and
    versions go. What else lies there stays.
    """
    if not folder.exists():
        work.rename(folder)
        return 1
    if replace:
        _clear(folder)
    taken = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    version = max(taken, default=0) + 1
    (work / "1").rename(folder / str(version))
    if not (folder / SPEC_FILE).exists():
        for name in (LABELS_FILE, SPEC_FILE):
            if (work / name).exists():
                (work / name).replace(folder / name)
    return version


def _clear(folder: Path) -> None:
    for name in (SPEC_FILE, LABELS_FILE):
        (folder / name).unlink(missing_ok=True)
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and entry.name.isdecimal():
            shutil.rmtree(entry)


def _lines(draft: Draft, source: str, notes: Sequence[str]) -> Iterator[str]:
    yield f"# Made by `visionmesh import {_one_line(source)}`."
    yield "# What is marked as assumed was not found in the network: check it."
    yield from (f"# Note: {_one_line(note)}." for note in notes)
    yield _entry("name", draft.name, None)
    yield _entry("task", draft.get("task"), draft.facts["task"])
    yield ""
    yield "input:"
    for key in _INPUT:
        fact = draft.facts.get(f"input.{key}")
        if fact is not None:
            yield "  " + _entry(key, fact.value, fact, f"input.{key}")
    yield ""
    yield "output:"
    for key, fact in draft.facts.items():
        if key.startswith("output."):
            yield "  " + _entry(key.partition(".")[2], fact.value, fact, key)
    yield ""
    if draft.get("labels"):
        yield f"labels: {LABELS_FILE}"
    else:
        yield "# labels: labels.txt   # one per line; without them results tell numbers of classes"


def _entry(name: str, value: Any, fact: Fact | None, key: str = "") -> str:
    text = f"{name}: {_value(value)}"
    if fact is None:
        return text
    comment = _one_line(fact.why)
    if fact.origin is Origin.ASSUMED:
        comment = f"assumed: {comment}; {flag(key)} says otherwise"
    return f"{text:<28} # {comment}"


def _value(value: Any) -> str:
    plain = value.value if isinstance(value, Enum) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    return text.removesuffix("\n...\n").removesuffix("\n").strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())
