"""Arenas: where pixels and tensors lie while references to them travel."""

from visionmesh.tensors.arena import Arena, Reading, Slot
from visionmesh.tensors.device import DeviceArena, DeviceSlot
from visionmesh.tensors.device_reader import DeviceReader, DeviceReading
from visionmesh.tensors.inline import InlineArena, InlineReading, InlineSlot
from visionmesh.tensors.layout import arrays, describe, device_arrays, plan
from visionmesh.tensors.reader import Reader
from visionmesh.tensors.shm import ShmArena, ShmSlot
from visionmesh.tensors.shm_reader import ShmReader, ShmReading
from visionmesh.tensors.slab import reap

__all__ = [
    "Arena",
    "DeviceArena",
    "DeviceReader",
    "DeviceReading",
    "DeviceSlot",
    "InlineArena",
    "InlineReading",
    "InlineSlot",
    "Reader",
    "Reading",
    "ShmArena",
    "ShmReader",
    "ShmReading",
    "ShmSlot",
    "Slot",
    "arrays",
    "describe",
    "device_arrays",
    "plan",
    "reap",
]
