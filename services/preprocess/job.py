"""One image that waits to be prepared, and who prepares it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.preprocess.formats.header import Pixels
from services.preprocess.pixels import Prepared, prepare, prepare_pixels
from visionmesh.contracts import PIXELS, TensorMeta
from visionmesh.errors import Reject
from visionmesh.models.spec import InputSpec
from visionmesh.tensors import Slot, arrays


@dataclass(slots=True, kw_only=True)
class Job:
    """One image, and the slot that takes its pixels."""

    payload: memoryview
    """Encoded; or pixels, of which ``tensors`` tells."""
    tensors: tuple[TensorMeta, ...] = ()
    spec: InputSpec
    slot: Slot
    began_ns: int = 0
    ended_ns: int = 0

    @property
    def given(self) -> Pixels | None:
        """``(H, W, 3) uint8``, RGB, if a caller gave pixels."""
        return arrays(self.payload, self.tensors)[PIXELS] if self.tensors else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what is made: height, width, channels."""
        return self.spec.height, self.spec.width, self.spec.channels

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)

    @property
    def pixels(self) -> Pixels:
        """The slot of the host's memory, ``(height, width, channels) uint8``."""
        return np.frombuffer(self.slot.view, np.uint8).reshape(self.shape)


class Preparer(Protocol):
    """Decodes images and fits them into the inputs of their models."""

    def prepare(self, jobs: Sequence[Job]) -> list[Prepared | Reject]:
        """Fill the slots of ``jobs`` and note the times; may be called by several threads at once.

        Raises
        ------
        Retry, Fatal
            If the device failed; no slot is to be believed then.
        """


class CpuPreparer:
    """Prepares one image after the other; the interpreter lock is mostly free."""

    def __init__(self, *, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def prepare(self, jobs: Sequence[Job]) -> list[Prepared | Reject]:
        """Fill the slots of ``jobs``, which are the host's."""
        return [self._prepare(job) for job in jobs]

    def _prepare(self, job: Job) -> Prepared | Reject:
        job.began_ns = time.time_ns()
        limit = self._max_pixels
        try:
            given = job.given
            if given is not None:
                return prepare_pixels(given, job.spec, job.pixels, max_pixels=limit)
            return prepare(job.payload, job.spec, job.pixels, max_pixels=limit)
        except Reject as error:
            return error
        finally:
            job.ended_ns = time.time_ns()
