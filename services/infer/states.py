"""What is told of a worker's versions that are not ready to run."""

from __future__ import annotations

from services.infer.memory import NoRoom
from services.infer.room import Key
from services.infer.turns import Elsewhere
from visionmesh.errors import Retry, VisionmeshError


class States:
    """Why versions are not loaded, and how far those are that will be."""

    def __init__(self) -> None:
        self.asleep: dict[Key, str] = {}
        """Why a version is not loaded until its next image comes."""
        self.loading: dict[Key, str] = {}
        """How far that is what a version waits for, where it takes long."""
        self.elsewhere: set[str] = set()
        """Models none of whose devices is in this machine."""
        self._failed: dict[Key, VisionmeshError] = {}

    @property
    def failures(self) -> dict[Key, str]:
        """Why a version that should be loaded is not."""
        return {key: error.message for key, error in self._failed.items()}

    @property
    def crowded(self) -> list[Key]:
        """The versions that found no room beside what they are to replace."""
        return [key for key, error in self._failed.items() if isinstance(error, NoRoom)]

    def note(self, key: Key, error: VisionmeshError, *, serving: bool) -> None:
        """Remember why a version is not loaded: it is for other nodes, waits for room, or fails.

        What it is to replace may go on ``serving``.
        """
        # Nothing but an image wakes one that slept, and none comes for what has failed.
        slept = self.asleep.pop(key, None)
        if isinstance(error, Elsewhere):
            self.elsewhere.add(key[0])
        elif isinstance(error, Retry if slept else NoRoom) and not serving:
            self.asleep[key] = error.message
        else:
            self._failed[key] = error

    def forget_failures(self, model: str) -> None:
        """Forget what failed of a model, and that it is for other nodes."""
        self.elsewhere.discard(model)
        for key in [key for key in self._failed if key[0] == model]:
            del self._failed[key]

    def forget(self, key: Key) -> None:
        """Forget what was noted of a version."""
        self.asleep.pop(key, None)
        self._failed.pop(key, None)
