"""Looks into pickles without loading them: what would they call?"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from visionmesh.models.importing.wishes import misfit, unsafe

_HARMLESS = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(parameter|tensor|tensor_v2)|torch\.(storage\.)?\w+Storage"
    r"|torch\.(Size|device|bool|(b?float|q?u?int|complex)\d+(x\d)?)"
)
"""What tensors are made of; more is code."""
_SHOWN = 5
_NESTED = b"PK\x03\x04"
_DEPTH = 3


def require_harmless(file: Path) -> None:
    """Raise `ConfigurationError` (model_unsafe) if a pickle in ``file`` calls more than tensors
    need; the message names what."""
    wanted = sorted(set(_wanted_by(file)))
    if wanted:
        more = f" and {len(wanted) - _SHOWN} more" if len(wanted) > _SHOWN else ""
        raise unsafe(
            f"{file} is a pickle that wants to run code: {', '.join(wanted[:_SHOWN])}{more}. "
            "It was not loaded. Save its state_dict, and give module:callable with --weights; "
            "or export it to ONNX where it was made"
        )


def _wanted_by(file: Path) -> Iterator[str]:
    with file.open("rb") as source:
        if not zipfile.is_zipfile(source):
            source.seek(0)
            yield from _calls(source)
            return
        try:
            yield from _archive(source, _DEPTH)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise misfit(f"{file} is a damaged archive ({error}); copy it again") from error


def _archive(source: IO[bytes], depth: int) -> Iterator[str]:
    """Yield what any member would call: which of them are loaded as pickles others decide."""
    with zipfile.ZipFile(source) as archive:
        for member in archive.namelist():
            with archive.open(member) as content:
                nested = content.read(len(_NESTED)) == _NESTED
                content.seek(0)
                if not nested:
                    yield from _calls(content)
                elif depth:
                    yield from _archive(content, depth - 1)
                else:
                    yield "an archive in archives"


def _calls(source: IO[bytes]) -> Iterator[str]:
    """Yield the names that pickles look up, one after the other, up to where there is no more."""
    while True:
        seen = _Reader()
        try:
            for operation, argument, _ in pickletools.genops(source):
                yield from seen.read(operation.name, argument)
        except (ValueError, IndexError, OverflowError):
            return  # where it ends as a pickle, whoever loads it ends, too


class _Reader:
    """Follows the texts of a pickle to where they name what is called."""

    def __init__(self) -> None:
        self._pushed: list[str | None] = [None, None]
        self._memo: dict[int, str | None] = {}

    def read(self, operation: str, argument: Any) -> Iterator[str]:
        """Take in one operation; yield what it looks up, unless tensors need that."""
        match operation:
            case "GLOBAL" | "INST":
                yield from _suspicious(str(argument).replace(" ", "."))
            case "STACK_GLOBAL":
                module, name = self._pushed[-2:]
                known = module is not None and name is not None
                yield from _suspicious(f"{module}.{name}" if known else "a name that it computes")
            case "EXT1" | "EXT2" | "EXT4":
                yield f"the registered extension {argument}"
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._pushed[-1]
                return
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[int(argument)] = self._pushed[-1]
                return
            case "GET" | "BINGET" | "LONG_BINGET":
                argument = self._memo.get(int(argument))
        self._pushed = [self._pushed[-1], argument if isinstance(argument, str) else None]


def _suspicious(name: str) -> Iterator[str]:
    if not _HARMLESS.fullmatch(name):
        yield name
