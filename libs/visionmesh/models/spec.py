"""What ``model.yaml`` says of a model, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ByteSize, ConfigDict, Field, FiniteFloat, model_validator

from visionmesh.contracts import Frozen
from visionmesh.durations import Duration

MOST_CORES = 1024
"""Of one machine: more copies or threads than that are a slip of the hand."""
MOST_SLOTS = 8
"""Copy-in, compute and copy-out are three things at a time; more only wait."""


class Task(StrEnum):
    CLASSIFICATION = "classification"
    DETECTION = "detection"
    SEGMENTATION = "segmentation"
    ANOMALY = "anomaly"
    EMBEDDING = "embedding"


class Resize(StrEnum):
    LETTERBOX = "letterbox"
    """Scale until it fits, keep the aspect ratio, fill the rest with the pad value."""
    CROP = "crop"
    """Scale until it covers, keep the aspect ratio, cut the overhang evenly."""
    STRETCH = "stretch"
    """Scale each axis by itself."""


class InputSpec(Frozen):
    """The tensor that the network takes, and how an image becomes it.

    Pixels reach the engine as ``(N, height, width, channels) uint8`` in the order of ``color``;
    unless ``dtype`` is uint8 the worker then computes ``(pixel * scale - mean) / std`` per channel
    (channels in the order of ``color``) and transposes to ``layout``.
    """

    width: Annotated[int, Field(ge=1, le=8192)]
    height: Annotated[int, Field(ge=1, le=8192)]
    resize: Resize = Resize.LETTERBOX
    anchor: Literal["center", "top_left"] = "center"
    """Where a letterboxed image lies."""
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    scale: FiniteFloat = 1.0
    mean: tuple[FiniteFloat, ...] = (0.0,)
    """One value, or one per channel."""
    std: tuple[FiniteFloat, ...] = (1.0,)
    pad: Annotated[int, Field(ge=0, le=255)] = 114

    @property
    def channels(self) -> int:
        return 1 if self.color == "GRAY" else 3

    @model_validator(mode="after")
    def _channels_agree(self) -> InputSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"input.{name} wants 1 or {self.channels} values")
        if 0.0 in self.std:
            raise ValueError("input.std must not contain 0")
        return self


class OutputSpec(Frozen):
    """How the network's outputs become an answer. Parameters beyond the known are the decoder's."""

    model_config = ConfigDict(frozen=True, extra="allow")

    decoder: str
    """`softmax`, `yolox`, `yolov8`, …, or ``module:function`` of the user's own."""
    confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    iou: Annotated[float, Field(ge=0.0, le=1.0)] = 0.45
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    max_detections: Annotated[int, Field(ge=1, le=10_000)] = 300
    nms: Literal["per_class", "agnostic", "soft", "none"] = "per_class"
    """Boxes suppress those of their own class, any, by lowering scores (soft-NMS), or none."""
    class_confidence: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = Field(
        default_factory=dict
    )
    """The least score by label, where it is not `confidence`."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The decoder's own parameters, such as ``strides``."""
        return dict(self.__pydantic_extra__ or {})


class Batching(Frozen):
    max_size: Annotated[int, Field(ge=1, le=256)] = 8
    max_delay: Duration = timedelta(milliseconds=10)
    """Counted from when the oldest image was enqueued; never waited for by an idle engine."""


class Instance(Frozen):
    """Copies of the engine on one device."""

    device: str = "cpu"
    count: Annotated[int, Field(ge=1, le=MOST_CORES)] | None = None
    """`None`: one for each core that the worker may use; one on a GPU."""
    threads: Annotated[int, Field(ge=1, le=MOST_CORES)] = 1
    """Of one copy, within one operator."""
    engines: tuple[str, ...] = ()
    """Tried in this order, and the first that works runs; empty: as is usual for the device."""
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS)] = 2
    """Batches of a copy that are on a GPU at a time: one is copied while another is computed."""
    fallback: bool = False
    """Opened only where none of the other instances can be."""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """The engine's own."""
    memory: Annotated[ByteSize, Field(gt=0)] | None = None
    """Bytes of the GPU's memory that a version's copies may take, such as ``4GiB``; it is refused
    if they take more. `None`: as many as there are."""


class CacheSpec(Frozen):
    enabled: bool = True
    ttl: Duration = timedelta(hours=1)
    near_duplicates: Annotated[int, Field(ge=0, le=16)] = 0
    """Largest Hamming distance of the 64-bit perceptual hash at which a frame of the same source
    is answered with the last one's result; 0 is off."""


class Policy(StrEnum):
    LEAST_LOADED = "least_loaded"
    """The node on which the image was prepared, unless others have much less to do."""
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    AFFINITY = "affinity"
    """All images of a source go to the same node as long as it lives."""


class Routing(Frozen):
    """Which node computes an image; within a node, who is free takes it."""

    policy: Policy = Policy.LEAST_LOADED
    weights: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """By node, or by device (``cpu``, ``cuda``); what is not named weighs 1."""


class ModelSpec(Frozen):
    """One model: the parsed and validated ``model.yaml``."""

    name: str
    task: Task
    description: str = ""
    input: InputSpec
    output: OutputSpec
    labels: tuple[str, ...] = ()
    batching: Batching = Batching()
    instances: Annotated[tuple[Instance, ...], Field(min_length=1)] = (Instance(),)
    traffic: dict[int, float] = Field(default_factory=dict)
    """Weight by version; empty: everything goes to the newest."""
    window: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images of this model in flight through the whole mesh."""
    keep_alive: Duration | None = None
    """How long the model stays loaded without an image; `None`: for ever."""
    cache: CacheSpec = CacheSpec()
    routing: Routing = Routing()
    made_by: str = ""
    """The command or script that makes the weights."""
