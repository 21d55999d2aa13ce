"""Looks into pickles without loading them: what would they call?"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from visionmesh.models.importing.wishes import misfit, unsafe

_HARMLESS = re.compile(
    r"collections\.OrderedDict|(__builtin__|builtins)\.set|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_(parameter|tensor|tensor_v2)|torch\.(storage\.)?\w+Storage"
    r"|torch\.(Size|device|bool|(b?float|q?u?int|complex)\d+(x\d)?)"
)
"""What tensors are made of; more is code."""
_LINES = frozenset({"INT", "LONG", "FLOAT", "STRING", "UNICODE", "PERSID", "GET", "PUT"})
"""Operations whose argument is a line of text, which PyTorch writes none of. `pickletools` refuses
some that Python takes, and would not see what stands behind them."""
_DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError),
    *(MemoryError, OverflowError),
)
"""What readers raise; the last two for lengths that no file has."""
_SHOWN = 5
_PICKLES = 5
"""Of a file of PyTorch's before 1.6; raw numbers follow."""
_BEGIN = b"PK\x03\x04"
_DEPTH = 3
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q 4sLQL")
"""The longer end of an archive's directory, and what tells where that is (APPNOTE 4.3.14 to 16)."""


def require_harmless(file: Path) -> None:
    """Raise `ConfigurationError` if a pickle in ``file`` calls more than tensors need.

    Raises
    ------
    ConfigurationError
        (model_unsafe) with the names of what it calls; (model_invalid) if the file is damaged.
    """
    wanted: set[str] = set()
    try:
        for name in _wanted_by(file):
            wanted.add(name)
    except _DAMAGE as error:
        if not wanted:
            raise misfit(
                f"{file} cannot be read: it is damaged, or none of PyTorch's ({error}); "
                "copy it again"
            ) from error
    if wanted:
        more = f" and {len(wanted) - _SHOWN} more" if len(wanted) > _SHOWN else ""
        names = ", ".join(sorted(wanted)[:_SHOWN])
        raise unsafe(
            f"{file} is a pickle that wants to run code: {names}{more}. "
            "It was not loaded. Save its state_dict, and give module:callable with --weights; "
            "or export it to ONNX where it was made"
        )


def _wanted_by(file: Path) -> Iterator[str]:
    with file.open("rb") as source:
        if zipfile.is_zipfile(source):
            yield from _archive(source, _DEPTH)
            return
        source.seek(0)
        if source.read(len(_BEGIN)) == _BEGIN:
            raise misfit(f"{file} cannot be read, as it is cut short; copy it again")
        source.seek(0)
        yield from _calls(source)


def _archive(source: IO[bytes], depth: int) -> Iterator[str]:
    with zipfile.ZipFile(source) as archive:
        _require_one_reading(source, archive)
        names = [name.casefold() for name in archive.namelist()]
        if len(set(names)) < len(names):
            yield "two members of one name"  # readers differ in which of them they take
        for member in archive.namelist():
            name = member.casefold()  # as PyTorch looks members up
            with archive.open(member) as content:
                nested = content.read(len(_BEGIN)) == _BEGIN
                content.seek(0)
                if nested:
                    yield from _archive(content, depth - 1) if depth else ["archives in archives"]
                elif name.endswith((".pkl", ".pt")):
                    yield from _calls(content)
            if name.endswith("constants.pkl"):
                yield "TorchScript"


def _require_one_reading(source: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Raise `BadZipFile` unless PyTorch's reader finds what Python's does.

    Python looks for the directory right before its end, PyTorch where the end says.
    """
    if any(m.compress_type or m.file_size != m.compress_size for m in archive.infolist()):
        raise zipfile.BadZipFile("it is compressed, which PyTorch's are not")
    begin = source.seek(0, 2) - _END.size
    source.seek(begin)
    end, *_, length, offset, comment = _END.unpack(source.read())
    found = end == b"PK\5\6" and not comment
    longer = begin - _END_64.size
    if longer >= 0:
        source.seek(longer)
        end, *_, length_64, offset_64, pointer, _, place, _ = _END_64.unpack(
            source.read(_END_64.size)
        )
        if pointer == b"PK\6\7":
            found = found and end == b"PK\6\6" and place == longer
            begin, length, offset = longer, length_64, offset_64
    if not found or offset + length != begin:
        raise zipfile.BadZipFile("its directory is not where its end says")


def _calls(source: IO[bytes]) -> Iterator[str]:
    """Yield the names that pickles look up, and what else PyTorch does not write.

    Raises
    ------
    ValueError
        If it is no pickle.
    """
    for nth in range(_PICKLES):
        begin = source.read(1)
        if nth and not begin:
            return
        source.seek(-len(begin), 1)
        texts: deque[str] = deque(maxlen=2)
        for operation, argument, _ in pickletools.genops(source):
            if operation.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
                if not _HARMLESS.fullmatch(name):
                    yield name
            elif operation.name == "STACK_GLOBAL":
                yield ".".join(texts)  # most likely: they can be put together in many ways
            elif operation.name in _LINES:
                yield "protocol 0"
            elif isinstance(argument, str):
                texts.append(argument)
