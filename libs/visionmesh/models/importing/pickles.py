"""Looks into pickles without loading them: what would they call?"""

from __future__ import annotations

import pickletools
import re
import warnings
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of weights that look like texts
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
    try:
        while True:
            stack = _Stack()
            for operation, argument, _ in pickletools.genops(source):
                if operation.name in {"GLOBAL", "INST"}:
                    yield from _suspicious(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    yield from _suspicious(".".join(stack.names()))
                stack.follow(operation, argument)
    except (ValueError, IndexError, KeyError, OverflowError):
        return  # where it ends as a pickle, whoever loads it ends, too


class _Stack:
    """The texts on the stack of whoever loads a pickle; other values are `None`.

    Errors are those of a loader: `IndexError` and `KeyError` for what is not there, `ValueError`
    for a name that is no text.
    """

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._memo: dict[int, Any] = {}

    def names(self) -> tuple[str, str]:
        """Return the module and the name that STACK_GLOBAL takes."""
        module, name = self._values[-2], self._values[-1]
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("no text")
        return module, name

    def follow(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do to the stack what an operation does."""
        match operation.name:
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._values[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[int(argument)] = self._values[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._values.append(self._memo[int(argument)])
            case "DUP":
                self._values.append(self._values[-1])
            case _:
                self._pop(operation)
                made = argument if isinstance(argument, str) else None
                self._values += [
                    _MARK if kind is pickletools.markobject else made
                    for kind in operation.stack_after
                ]

    def _pop(self, operation: pickletools.OpcodeInfo) -> None:
        before = operation.stack_before
        if pickletools.markobject in before:
            while self._values.pop() is not _MARK:
                pass
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self._values.pop()


_MARK = object()


def _suspicious(name: str) -> Iterator[str]:
    if not _HARMLESS.fullmatch(name):
        yield name
