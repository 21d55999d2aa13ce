"""Arenas: where pixels and tensors lie while references to them travel."""

from visionmesh.tensors.arena import Arena, Reading, Slot
from visionmesh.tensors.inline import InlineArena, InlineReading, InlineSlot
from visionmesh.tensors.layout import arrays, describe, plan
from visionmesh.tensors.reader import Reader
from visionmesh.tensors.shm import ShmArena, ShmSlot
from visionmesh.tensors.shm_reader import ShmReader, ShmReading
from visionmesh.tensors.slab import reap

__all__ = [
    "Arena",
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
    "plan",
    "reap",
]
