"""What is assumed of a network that does not tell: the habits of its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionmesh.models.importing.wishes import Draft

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's photos in RGB, from 0 to 1; most networks begin their training with them."""

_UNIT: Mapping[str, Any] = {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)}
_IMAGENET: Mapping[str, Any] = {"scale": 1 / 255, "mean": _IMAGENET_MEAN, "std": _IMAGENET_STD}
_BYTES: Mapping[str, Any] = {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}

_YOLO = {"resize": "letterbox", "anchor": "center", "pad": 114, **_UNIT}
_HABITS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "yolov5": ("YOLO", _YOLO),
    "yolov8": ("YOLO", _YOLO),
    "yolov8_seg": ("YOLO", _YOLO),
    "obb": ("YOLO", _YOLO),
    "end2end": ("YOLO", _YOLO),
    "yolox": (
        "YOLOX",
        {"resize": "letterbox", "anchor": "top_left", "pad": 114, "color": "BGR", **_BYTES},
    ),
    "ssd": ("SSD", {"resize": "stretch", **_UNIT}),
    "detr": ("DETR", {"resize": "stretch", **_IMAGENET}),
    "softmax": ("classifiers", {"resize": "crop", **_IMAGENET}),
    "embedding": ("embeddings", {"resize": "crop", **_IMAGENET}),
    "semantic": ("segmentation", {"resize": "stretch", **_IMAGENET}),
    "anomaly": ("anomaly detection", {"resize": "stretch", **_IMAGENET}),
}
_LETTERBOX = {"anchor": "center", "pad": 114}
"""Where a letterboxed image lies, and what is around it, unless a family has habits of its own."""
_ORDER = ("resize", "anchor", "color", "scale", "mean", "std", "pad")


def assume_habits(draft: Draft, *, ultralytics: bool) -> None:
    """Fill in what nobody said of the input with what is usual for the decoder's family."""
    decoder = draft.get("output.decoder")
    family, habits = _HABITS.get(decoder, ("networks", {"resize": "stretch", **_UNIT}))
    if ultralytics or (decoder == "detr" and draft.get("output.activation") in {"sigmoid", "none"}):
        # Ultralytics gives all its networks pixels from 0 to 1, and RT-DETR's authors do, too.
        family, habits = f"{family} of this make", {**habits, **_UNIT}
    if draft.get("input.dtype") == "uint8":
        family, habits = "networks that take bytes", {**habits, **_BYTES}
    habits = {"color": "RGB", **_LETTERBOX, **habits}
    gray = draft.get("input.color") == "GRAY"
    for key in _ORDER:
        if key in _LETTERBOX and draft.get("input.resize") != "letterbox":
            continue
        value = habits[key]
        if gray and isinstance(value, tuple) and len(value) > 1:
            value = (round(sum(value) / len(value), 3),)
        draft.assume(f"input.{key}", value, f"usual for {family}")
