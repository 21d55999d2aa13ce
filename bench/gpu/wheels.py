"""Wheels made smaller: better compressed, and without the code for other GPUs."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from bench.gpu import fatbins


def repack(wheel: Path, target: Path, *, sm: int | None = None, without: Sequence[str] = ()) -> int:
    """Write ``wheel`` again as ``target``, LZMA-compressed, and return its size in bytes.

    Libraries keep the code for GPUs of architecture ``sm`` only (90 is sm_90; `None`: all); files
    that match a pattern in ``without`` are left out.
    """
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as made,
    ):
        record, lines = "", []
        for member in source.infolist():
            if member.filename.endswith(".dist-info/RECORD"):
                record = member.filename
                continue
            if any(fnmatch(member.filename, pattern) for pattern in without):
                continue
            content = bytearray(source.read(member))
            if sm is not None and ".so" in Path(member.filename).name:
                fatbins.keep(content, sm)
            member.compress_type = zipfile.ZIP_LZMA
            made.writestr(member, bytes(content))
            lines.append(f"{member.filename},sha256={_digest(content)},{len(content)}")
        made.writestr(record, "\n".join([*lines, f"{record},,", ""]))
    return target.stat().st_size


def _digest(content: bytearray) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def split(file: Path, nbytes: int) -> list[Path]:
    """Cut a file into pieces of at most ``nbytes`` beside it, and remove it.

    They are in order by name, so ``cat file.* > file`` makes it whole again.
    """
    content = file.read_bytes()
    pieces = []
    for number, begin in enumerate(range(0, len(content), nbytes), 1):
        pieces.append(file.with_name(f"{file.name}.{number:03}"))
        pieces[-1].write_bytes(content[begin : begin + nbytes])
    file.unlink()
    return pieces


def site_of(prefix: Path) -> Path:
    """Return where `install` puts packages below ``prefix``."""
    return Path(sysconfig.get_path("purelib", "posix_prefix", {"base": prefix}))


def install(folders: Sequence[Path], prefix: Path) -> None:
    """Install all wheels in ``folders`` below ``prefix``; pieces are joined there before.

    Not into one folder by pip's ``--target``: packages would not find their own programs.
    """
    found = [wheel for folder in folders for wheel in folder.glob("*.whl")]
    pieces: dict[str, list[Path]] = {}
    for piece in (piece for folder in folders for piece in folder.glob("*.whl.[0-9]*")):
        pieces.setdefault(piece.stem, []).append(piece)
    prefix.mkdir(parents=True, exist_ok=True)
    for name, parts in pieces.items():
        found.append(prefix / name)
        ordered = sorted(parts, key=lambda part: part.name)
        found[-1].write_bytes(b"".join(part.read_bytes() for part in ordered))
    options = ["-q", "--no-index", "--no-deps", "--no-compile", "--ignore-installed"]
    command = [sys.executable, "-m", "pip", "install", *options, f"--prefix={prefix}"]
    subprocess.run([*command, *map(str, found)], check=True)
