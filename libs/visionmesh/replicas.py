"""The processes of one service: how many, and which GPU each of them sees."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from visionmesh.errors import Code, ConfigurationError
from visionmesh.settings import DeviceSettings, ServiceSettings, Settings

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One process of a service."""

    name: str
    settings: Settings
    environment: Mapping[str, str]
    """What it is told of GPUs, beside its settings."""


def replicas_of(
    settings: Settings, service: str, *, environment: Mapping[str, str] = os.environ
) -> list[Replica]:
    """Return the processes of ``service``: ``replicas`` for each of its ``devices``.

    A process sees its own device only, as ``cuda``: it can hold no memory of another one, and of
    the slices of a GPU (MIG) a process can use one. Only the first can have the port that was
    asked for. ``environment`` is that of the supervisor, whose own view of GPUs may be narrowed.

    Raises
    ------
    ConfigurationError
        (device_missing) if a device is hidden from the supervisor itself.
    """
    section: ServiceSettings = getattr(settings, service)
    places = [place for place in devices_of(section) for _ in range(section.replicas)]
    return [
        Replica(
            name=service if len(places) == 1 else f"{service}-{number}",
            settings=_settings_on(place, settings, service, first=number == 1),
            environment=visible(place, environment),
        )
        for number, place in enumerate(places, start=1)
    ]


def sole_replica(
    settings: Settings, service: str, *, environment: Mapping[str, str] = os.environ
) -> Replica:
    """Return the one process that ``service`` is where nobody starts several.

    Raises
    ------
    ConfigurationError
        (settings_invalid) if it has several devices; (device_missing) as `replicas_of`.
    """
    places = devices_of(getattr(settings, service))
    if len(places) > 1:
        raise ConfigurationError(
            Code.SETTINGS_INVALID,
            f"setting {service}.devices: one process works on one device; name one of "
            f"{', '.join(str(place) for place in places)}.",
        )
    return Replica(
        name=service,
        settings=_settings_on(places[0], settings, service, first=True),
        environment=visible(places[0], environment),
    )


def devices_of(section: ServiceSettings) -> tuple[str | None, ...]:
    """Return where a service's processes work; `None`: wherever they find something."""
    if not isinstance(section, DeviceSettings):
        return (None,)
    device: str = getattr(section, "device", "")
    # Who works on a CPU may still read what others leave in the memory of any GPU.
    return section.devices or (device if device.startswith("cuda:") else None,)


def visible(device: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which CUDA shows ``device`` only: ``cuda:1``, ``cuda:MIG-…``.

    `None` and ``cuda`` show all that the supervisor sees, ``cpu`` none. Numbers count what the
    supervisor sees.
    """
    kind, _, which = (device or "cuda").partition(":")
    if kind != "cuda":
        return {_VISIBLE: ""}
    if not which:
        return {}
    if not which.isdecimal():
        return {_VISIBLE: which}
    if _VISIBLE not in environment:
        return {_VISIBLE: which}
    shown = [one for one in environment[_VISIBLE].split(",") if one]
    if int(which) >= len(shown):
        raise ConfigurationError(
            Code.DEVICE_MISSING,
            f"{device} is not visible here: {_VISIBLE} shows {len(shown)} GPUs.",
        )
    return {_VISIBLE: shown[int(which)]}


def _settings_on(place: str | None, settings: Settings, service: str, *, first: bool) -> Settings:
    section: ServiceSettings = getattr(settings, service)
    changes: dict[str, object] = {}
    if not first:
        changes |= {"port": 0} | ({"grpc_port": 0} if service == "ingest" else {})
    if isinstance(section, DeviceSettings):
        changes["devices"] = ()
    if place is not None and hasattr(section, "device"):
        changes["device"] = "cuda" if place.startswith("cuda") else place
    return settings.model_copy(update={service: section.model_copy(update=changes)})
