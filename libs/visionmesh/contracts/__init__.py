"""The values that travel, all of them frozen: parameters, references, results."""

from visionmesh.contracts.frozen import Frozen
from visionmesh.contracts.location import CudaLocation, InlineLocation, Location, ShmLocation
from visionmesh.contracts.params import PIXELS, Params, Priority, Score, Want
from visionmesh.contracts.reference import Placement, Reference, TensorMeta
from visionmesh.contracts.result import (
    Answer,
    Box,
    CacheInfo,
    ClassScore,
    Detection,
    ErrorInfo,
    Heatmap,
    ImageInfo,
    Point,
    Region,
    Result,
    Rle,
    Status,
)

__all__ = [
    "PIXELS",
    "Answer",
    "Box",
    "CacheInfo",
    "ClassScore",
    "CudaLocation",
    "Detection",
    "ErrorInfo",
    "Frozen",
    "Heatmap",
    "ImageInfo",
    "InlineLocation",
    "Location",
    "Params",
    "Placement",
    "Point",
    "Priority",
    "Reference",
    "Region",
    "Result",
    "Rle",
    "Score",
    "ShmLocation",
    "Status",
    "TensorMeta",
    "Want",
]
