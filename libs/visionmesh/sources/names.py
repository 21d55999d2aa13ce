"""What a video may be called."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".ts", ".mpg", ".mpeg", ".mjpeg", ".mjpg"}
)


def is_video(name: str) -> bool:
    """Say whether ``name`` is that of a video: a URL, a camera's number or device, or a file."""
    if is_url(name) or is_camera(name):
        return True
    return Path(name).suffix.lower() in _SUFFIXES and not Path(name).is_dir()


def is_url(name: str) -> bool:
    return "://" in name


def is_camera(name: str) -> bool:
    return name.startswith("/dev/video") or (name.isdecimal() and not Path(name).exists())


def without_password(name: str) -> str:
    """Return ``name`` as it may be shown: a URL may have a user and a password in it."""
    scheme, separator, rest = name.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
