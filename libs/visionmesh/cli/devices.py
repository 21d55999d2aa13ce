"""The command that lists GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from visionmesh.cli import options
from visionmesh.cli.console import aside, print_json, print_table, screen
from visionmesh.cli.versions import size

if TYPE_CHECKING:
    from visionmesh.gpu.listing import GpuListing, GpuSlice
    from visionmesh.nodes import NodeRecord

_COLUMNS = ["NODE", "GPU", "NAME", "UUID", "MEMORY", "BUSY", "°C", "STATE", "RUNS"]
_UNTOLD = "-"


class Running(NamedTuple):
    """A version that a worker has loaded."""

    model: str
    version: int
    engine: str
    precision: str
    pid: int
    memory_bytes: int
    """Of the GPU."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, on which node, and what runs there."""

    node: str
    gpu: GpuListing
    workers: tuple[NodeRecord, ...]
    """Those of the node."""

    def running(self, uuid: str) -> list[Running]:
        """Return what workers have loaded on this GPU, or on a slice of it."""
        return [
            Running(
                model=one.model,
                version=one.version,
                engine=one.engine,
                precision=one.precision,
                pid=worker.pid,
                memory_bytes=one.device_memory[uuid],
            )
            for worker in self.workers
            for one in worker.loaded
            if uuid in one.device_memory
        ]

    def document(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        gpu = self.gpu
        parts = [
            {**part.model_dump(mode="json"), "models": self._told(part.uuid)} for part in gpu.slices
        ]
        return {
            "node": self.node,
            **gpu.model_dump(mode="json"),
            "healthy": gpu.healthy,
            "models": self._told(gpu.uuid),
            "slices": parts,
        }

    def _told(self, uuid: str) -> list[dict[str, object]]:
        return [one._asdict() for one in self.running(uuid)]


def devices(
    nats: options.NatsUrl = None, state: options.State = None, json: options.AsJson = False
) -> None:
    """List the GPUs of this machine and of the mesh's other nodes, and what runs on them.

    Where there is none it says why. Without a mesh it lists those of this machine only.
    """
    here = options.settings_of(None, state_dir=state).node
    gpus, why = local_gpus()
    workers = asyncio.run(_workers(nats, state))
    found = known_devices(here, gpus, workers)
    if json:
        for device in found:
            print_json(device.document())
    elif found:
        print_table(_COLUMNS, rows(found), empty="")
        _print_remarks(found)
    if why:
        (aside() if json else screen()).print(f"No GPU on {here}: {why}.", markup=False)
    elif find_spec("cupy") is None:
        aside().print(f"CuPy is not installed on {here}: its workers cannot use these GPUs.")


def local_gpus() -> tuple[tuple[GpuListing, ...], str]:
    """Return the GPUs of this machine, or why there is none."""
    from visionmesh.gpu.listing import listing
    from visionmesh.gpu.nvml import NoNvml, read_once

    try:
        found = tuple(listing(raw) for raw in read_once())
    except NoNvml as error:
        return (), str(error)
    return found, "" if found else "the driver knows none"


def known_devices(
    here: str, gpus: Iterable[GpuListing], workers: Sequence[NodeRecord]
) -> list[Device]:
    """Return each GPU once: as it is seen here, else as a worker on its node tells it."""
    found = {(here, gpu.uuid): gpu for gpu in gpus}
    for worker in workers:
        for gpu in worker.gpus:
            found.setdefault((worker.node, gpu.uuid), gpu)
    return [
        Device(node=node, gpu=gpu, workers=tuple(one for one in workers if one.node == node))
        for (node, _), gpu in sorted(found.items(), key=lambda one: (one[0][0], one[1].index))
    ]


def rows(found: Iterable[Device]) -> list[tuple[str, ...]]:
    """Return a row of the table for each GPU, and for each slice below it."""
    table: list[tuple[str, ...]] = []
    for device in found:
        gpu = device.gpu
        table.append(
            (
                device.node,
                str(gpu.index),
                gpu.name,
                gpu.uuid,
                _memory(gpu),
                _UNTOLD if gpu.utilization is None else f"{gpu.utilization:.0%}",
                _UNTOLD if gpu.temperature is None else f"{gpu.temperature:g}",
                "healthy" if gpu.healthy else "UNFIT",
                _runs(device, gpu.uuid) or _processes(gpu),
            )
        )
        for part in gpu.slices:
            runs = _runs(device, part.uuid)
            table.append(
                ("", "", f"MIG {part.profile}", part.uuid, _memory(part), "", "", "", runs)
            )
    return table


def _memory(told: GpuListing | GpuSlice) -> str:
    if told.memory_used is None or told.memory_total is None:
        return _UNTOLD
    return f"{size(told.memory_used)} of {size(told.memory_total)}"


def _runs(device: Device, uuid: str) -> str:
    return ", ".join(
        f"{one.model}/{one.version} {one.engine} {one.precision} {size(one.memory_bytes)}"
        for one in device.running(uuid)
    )


def _processes(gpu: GpuListing) -> str:
    count = len(gpu.processes)
    return f"{count} process{'es' if count > 1 else ''}" if count else ""


def _print_remarks(found: Iterable[Device]) -> None:
    """Print what is wrong with GPUs, a line each."""
    for device in found:
        for remark in (*filter(None, [device.gpu.unfit]), *device.gpu.warnings):
            screen().print(f"GPU {device.gpu.index} on {device.node}: {remark}.")


async def _workers(nats: str | None, state: Path | None) -> list[NodeRecord]:
    """Return the mesh's workers; none without a mesh, unless it was named."""
    from visionmesh.errors import Refused

    try:
        async with options.client(nats, state) as mesh:
            return await mesh.nodes()
    except Refused:
        if nats is not None:
            raise
        return []
