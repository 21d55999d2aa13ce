"""The images that a model is calibrated and judged with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple, Self

from visionmesh.errors import Code, ConfigurationError, Reject
from visionmesh.workbench import Workbench

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_CALIBRATION = 3
"""One image of so many: the ranges of values settle soon, the share of equal answers late."""
_SEED = 1


class Picture(NamedTuple):
    encoded: bytes
    truth: str | None
    """The label, where the images lie in folders that are called like labels."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Different images that can be decoded; read anew each time, so that any number fits."""

    root: Path
    files: tuple[Path, ...]
    labelled: bool = False
    skipped: tuple[str, ...] = ()
    """Files that are no images, by their names below ``root``."""

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Picture]:
        for file in self.files:
            truth = _folder(file, self.root) if self.labelled else None
            yield Picture(file.read_bytes(), truth)

    def split(self) -> tuple[Pictures, Pictures]:
        """Return the images to calibrate with, and those held out to judge what came of it.

        Raises
        ------
        ConfigurationError
            (images_missing) if there are fewer than two.
        """
        if len(self) < 2:  # noqa: PLR2004 - one for each part
            raise ConfigurationError(
                Code.IMAGES_MISSING,
                f"{self.root} holds {len(self)} different image(s) that can be decoded; some are "
                "needed to calibrate with and others to judge the result: name a folder with a few "
                "hundred.",
            )
        count = math.ceil(len(self) / _CALIBRATION)
        return self.of(self.files[:count]), self.of(self.files[count:])

    def of(self, files: tuple[Path, ...]) -> Self:
        """Return only these of the images."""
        return type(self)(root=self.root, files=files, labelled=self.labelled)


def gather(root: Path, bench: Workbench, *, most: int) -> Pictures:
    """Return up to ``most`` different images below ``root``, shuffled, but each time alike.

    They are labelled if each lies in a folder of ``root`` that is called like a label of the model.

    Raises
    ------
    ConfigurationError
        (images_missing) if there is no image that can be decoded.
    """
    found = [
        file
        for file in sorted(root.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    chosen: dict[str, Path] = {}
    skipped: list[str] = []
    # In the order of names neighbours are alike, and every third may be of the same camera.
    Random(_SEED).shuffle(found)
    for file in found[:most]:
        encoded = file.read_bytes()
        try:
            bench.sample(encoded)
        except Reject:
            skipped.append(str(file.relative_to(root)))
        else:
            # The same image in both parts would judge itself.
            chosen.setdefault(hashlib.sha256(encoded).hexdigest(), file)
    if not chosen:
        raise ConfigurationError(
            Code.IMAGES_MISSING,
            f"{root} holds no image that can be decoded; name a folder with images as the model "
            "will see them.",
        )
    files = tuple(chosen.values())
    labelled = all(_folder(file, root) in bench.spec.labels for file in files)
    return Pictures(root=root, files=files, labelled=labelled, skipped=tuple(skipped))


def _folder(file: Path, root: Path) -> str:
    """Return the name of the outermost folder below ``root``; that of the file if there is none."""
    return file.relative_to(root).parts[0]
