"""What goes wrong in a user's own code, told in a few words."""

from __future__ import annotations

import traceback
from pathlib import Path

from visionmesh.models.importing.probe import first_line

_PACKAGES = "site-packages"
_OURS = Path(__file__).parent


def complaint(error: Exception) -> str:
    """Return what ``error`` says, of which kind it is, and which line of the user's raised it."""
    said = first_line(error)
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [
        frame
        for frame in frames
        if _PACKAGES not in frame.filename
        and not frame.filename.startswith("<")
        and Path(frame.filename).parent != _OURS
        and not frame.filename.endswith("importlib/__init__.py")
    ]
    return (
        f"{what} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else what
    )
