"""Which of a model's instances run on this node, and in whose place others do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from services.infer.engines import engines_of
from services.infer.loading import Loaded
from services.infer.memory import NoRoom
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import GpuError, open_gpu
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.spec import Instance, ModelSpec

log = logging.getLogger(__name__)


class Elsewhere(ConfigurationError):
    """None of a model's devices is in this machine: it is for other nodes, which is no failure."""


@dataclass(frozen=True)
class Turn:
    """Instances to try together."""

    spec: ModelSpec
    """The model as if it had these instances only."""
    instead: str = ""
    """Why others, which it has too, are not tried; empty if these are the ones that are meant."""


async def take_turns(spec: ModelSpec, load: Callable[[ModelSpec], Awaitable[Loaded]]) -> Loaded:
    """Return what ``load`` makes of the first instances that can be loaded, in `turns_of`.

    Raises
    ------
    NoRoom
        If none can, and some only have to wait for a GPU's memory.
    ConfigurationError
        If none can ever, with every reason; and as `turns_of`.
    """
    failed: list[ConfigurationError | NoRoom] = []
    for turn in await asyncio.to_thread(turns_of, spec):
        try:
            loaded = await load(turn.spec)
        except (ConfigurationError, NoRoom) as error:
            failed.append(error)
        else:
            reasons = [error.message for error in failed]
            if reasons:
                log.warning("model %s runs elsewhere: %s", spec.name, " ".join(reasons))
            return replace(loaded, way=loaded.way.although(turn.instead, *reasons))
    everything = " ".join(error.message for error in failed)
    if any(isinstance(error, NoRoom) for error in failed):
        raise NoRoom(everything) from failed[-1]
    raise ConfigurationError(failed[-1].code, everything) from failed[-1]


def turns_of(spec: ModelSpec) -> tuple[Turn, ...]:
    """Return what to try until something works; block while devices are looked for.

    First come the instances that are meant to run, then those that stand in for them, without
    those whose device is not in this machine.

    Raises
    ------
    Elsewhere
        (device_missing) if there is nothing to try.
    ConfigurationError
        (model_invalid) if no engine serves one of the devices.
    """
    missing = {}
    for instance in spec.instances:
        engines_of(spec, instance)
        if why := _missing(instance.device):
            missing[instance.device] = why
    here = [instance for instance in spec.instances if instance.device not in missing]
    meant = tuple(instance for instance in here if not instance.fallback)
    others = tuple(one.model_copy(update={"fallback": False}) for one in here if one.fallback)
    why = " ".join(missing.values())
    turns = (Turn(_with(spec, meant)), Turn(_with(spec, others), why))
    found = tuple(turn for turn in turns if turn.spec.instances)
    if not found:
        raise Elsewhere(Code.DEVICE_MISSING, f"Model {spec.name!r} is for other nodes: {why}")
    return found


def _with(spec: ModelSpec, instances: tuple[Instance, ...]) -> ModelSpec:
    return spec.model_copy(update={"instances": instances})


def _missing(device: str) -> str:
    """Return why a device cannot be used here; empty if it can."""
    if is_gpu(device):
        try:
            open_gpu(device)
        except ConfigurationError as error:
            return error.message
        except GpuError as error:
            return f"{device}: {error}."
    return ""
