"""The networks that the benchmarks of GPUs run: known shapes, random weights, FP16.

    python -m bench.gpu.networks

prints what each computes, beside the published numbers. They are made on the spot: normalisations
have the statistics of some pictures, so that values neither vanish nor overflow, and the detector's
scores are shifted so that it finds as much as on a photo.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu.machine import Ceilings
from bench.gpu.pictures import picture
from bench.gpu.shapes import Convolution, VitB16, Yolov8s, resnet50, tiny

Network = Any
_PICTURES = 4
_FOUND = 30
"""Boxes per picture that score more than `_CONFIDENCE`, before suppression."""
_CONFIDENCE = 0.25
_HALF_BYTES = 2


@dataclass(frozen=True)
class Shape:
    """One of the networks."""

    make: Callable[[int], Network]
    size: int
    """Of the input's sides, in pixels."""
    tiny: int
    """The same for dry runs."""
    millions: float | None = None
    """Parameters, as published."""
    gmacs: float | None = None
    """Billions of multiplications for one image, as published."""


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "resnet50": Shape(lambda _: resnet50(), 224, 64, 25.6, 4.1),
        "yolov8s": Shape(lambda _: Yolov8s(), 640, 64, 11.2, 14.3),
        "vit-b16": Shape(lambda size: VitB16(size=size), 224, 32, 86.6, 17.6),
        "tiny": Shape(lambda _: tiny(), 64, 32),
    }
)


@dataclass(frozen=True)
class Cost:
    """What a network must compute and move at the least."""

    parameters: int
    operations: int
    """For one image; a multiplication and its addition are two."""
    input_bytes: int
    output_bytes: int

    def floor(self, batch: int, best: Ceilings) -> float:
        """Return the seconds below which no device with these rates runs a batch.

        Weights, images and outputs are moved once, everything in between never.
        """
        moved = self.parameters * _HALF_BYTES + batch * (self.input_bytes + self.output_bytes)
        return max(batch * self.operations / best.operations_per_s, moved / best.bytes_per_s)


def size_of(name: str, *, small: bool) -> int:
    """Return the sides of the network's input."""
    return SHAPES[name].tiny if small else SHAPES[name].size


def cost(name: str, size: int) -> Cost:
    """Count what one image costs, without computing anything."""
    with torch.device("meta"):
        network, images = SHAPES[name].make(size).eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        output = network(images)
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        operations=counter.get_total_flops(),
        input_bytes=images.numel() * _HALF_BYTES,
        output_bytes=output.numel() * _HALF_BYTES,
    )


def build(name: str, size: int) -> Network:
    """Return the network in FP16, on the CPU; the same each time."""
    torch.manual_seed(0)
    network = SHAPES[name].make(size)
    made = [picture(number, width=size, height=size) for number in range(_PICTURES)]
    pictures = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 255
    _normalise(network, pictures)
    _fuse(network)
    if isinstance(network, Yolov8s):
        _settle(network, pictures)
    return network.half().requires_grad_(False)


def _normalise(network: Network, pictures: Any) -> None:
    """Let every normalisation have the statistics of what passes it."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(pictures)
    network.eval()


def _fuse(network: Network) -> None:
    """Take normalisations into the convolutions before them, as every engine does."""
    for module in network.modules():
        if isinstance(module, Convolution):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()


def _settle(network: Yolov8s, pictures: Any) -> None:
    with torch.no_grad():
        best = network(pictures)[:, 4:].amax(1).flatten().logit()
        rank = min(_FOUND * len(pictures), len(best))
        shift = math.log(_CONFIDENCE / (1 - _CONFIDENCE)) - best.topk(rank).values[-1]
        for head in network.scores:
            head[-1].bias += shift


def save_onnx(network: Network, size: int, path: Path) -> None:
    """Write the network with a free batch size: ``images`` to ``output``, FP16."""
    torch.onnx.export(
        network,
        (_images(size),),
        path,
        input_names=["images"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("N", min=1, max=256)},),
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


class _Named(nn.Module):  # type: ignore[misc] # torch is not followed
    """Tells its output by name, as the mesh wants it of programs."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Any) -> dict[str, Any]:
        return {"output": self.network(images)}


def save_program(network: Network, size: int, path: Path) -> None:
    """Write the network as an exported program with a free batch size."""
    shapes = {"images": {0: torch.export.Dim("N", min=1, max=256)}}
    exported = torch.export.export(_Named(network), (_images(size),), dynamic_shapes=shapes)
    torch.export.save(exported, path)


def _images(size: int) -> Any:
    return torch.zeros(2, 3, size, size, dtype=torch.float16)


def folder(
    root: Path,
    name: str,
    *,
    size: int,
    instances: list[dict[str, object]],
    batch: int = 32,
    window: int = 256,
    program: bool = False,
) -> Path:
    """Write a model's folder, and return it; with ``program`` also ``model.pt2``."""
    made = root / name
    (made / "1").mkdir(parents=True)
    found: dict[str, object] = (
        {"decoder": "yolov8", "confidence": _CONFIDENCE}
        if name == "yolov8s"
        else {"decoder": "softmax", "top_k": 5, "activation": "softmax"}
    )
    labels = 80 if name == "yolov8s" else 1000
    spec = {
        "task": "detection" if name == "yolov8s" else "classification",
        "input": {"width": size, "height": size, "scale": 1 / 255, "dtype": "float16"},
        "output": found,
        "labels": [f"class {number}" for number in range(labels)],
        "batching": {"max_size": batch},
        "instances": instances,
        "window": window,
        "cache": {"enabled": False},
    }
    (made / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    network = build(name, size)
    save_onnx(network, size, made / "1" / "model.onnx")
    if program:
        save_program(network, size, made / "1" / "model.pt2")
    return made


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"{'network':<12}{'size':>6}{'million':>10}{'published':>11}{'GMAC':>8}{'published':>11}")
    for name, shape in SHAPES.items():
        found = cost(name, shape.size)
        millions, gmacs = found.parameters / 1e6, found.operations / 2e9
        told = [f"{number or math.nan:>11.1f}" for number in (shape.millions, shape.gmacs)]
        print(f"{name:<12}{shape.size:>6}{millions:>10.2f}{told[0]}{gmacs:>8.2f}{told[1]}")


if __name__ == "__main__":
    main()
