"""Networks in the shapes of three well-known ones, as PyTorch modules with random weights.

Sources: He et al., "Deep Residual Learning for Image Recognition", table 1 (ResNet-50, with the
stride in the convolution of 3 by 3); Ultralytics' description of YOLOv8 (``yolov8.yaml``, scale s);
Dosovitskiy et al., "An Image is Worth 16x16 Words", table 1 (ViT-B/16).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tensor = Any
CLASSES = 1000
"""Of ImageNet."""
OBJECTS = 80
"""Classes of COCO."""
BINS = 16
"""Values by which YOLOv8 tells the distance of a box's side."""


class Convolution(nn.Module):  # type: ignore[misc] # torch is not followed
    """Convolution, batch normalisation, and an activation if any."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, act: nn.Module
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(images)))


class _Bottleneck(nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            Convolution(inputs, width, act=nn.ReLU()),
            Convolution(width, width, 3, stride, act=nn.ReLU()),
            Convolution(width, outputs, act=nn.Identity()),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = Convolution(inputs, outputs, 1, stride, act=nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.body(images) + self.shortcut(images))


def resnet50() -> nn.Module:
    """Return ``(N, 3, 224, 224)`` to logits ``(N, 1000)``."""
    layers: list[nn.Module] = [Convolution(3, 64, 7, 2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(_Bottleneck(inputs, width, 1 if block else stride))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def _silu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> Convolution:
    return Convolution(inputs, outputs, kernel, stride, act=nn.SiLU())


class _Residual(nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_silu(width, width, 3), _silu(width, width, 3))
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        return images + self.body(images) if self.shortcut else self.body(images)


class _C2f(nn.Module):  # type: ignore[misc] # torch is not followed
    """Half of the channels go through blocks, one after the other; all that came out is mixed."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, shortcut: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.split = _silu(inputs, outputs)
        self.blocks = nn.ModuleList(_Residual(half, shortcut=shortcut) for _ in range(blocks))
        self.mix = _silu((2 + blocks) * half, outputs)

    def forward(self, images: Tensor) -> Tensor:
        parts = list(self.split(images).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.mix(torch.cat(parts, 1))


class _Pyramid(nn.Module):  # type: ignore[misc] # torch is not followed
    """Spatial pyramid pooling: three poolings, one behind the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow = _silu(width, width // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mix = _silu(2 * width, width)

    def forward(self, images: Tensor) -> Tensor:
        parts = [self.narrow(images)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.mix(torch.cat(parts, 1))


class Yolov8s(nn.Module):  # type: ignore[misc] # torch is not followed
    """``(N, 3, H, W)`` to ``(N, 4 + 80, A)``: centres, sizes in pixels, scores of A cells."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _silu(3, 32, 3, 2),
            _silu(32, 64, 3, 2),
            _C2f(64, 64, 1, shortcut=True),
            _silu(64, 128, 3, 2),
            _C2f(128, 128, 2, shortcut=True),
        )
        self.middle = nn.Sequential(_silu(128, 256, 3, 2), _C2f(256, 256, 2, shortcut=True))
        self.coarse = nn.Sequential(
            _silu(256, 512, 3, 2), _C2f(512, 512, 1, shortcut=True), _Pyramid(512)
        )
        self.up_middle, self.up_fine = _C2f(768, 256, 1), _C2f(384, 128, 1)
        self.down_middle, self.down_coarse = _silu(128, 128, 3, 2), _silu(256, 256, 3, 2)
        self.mix_middle, self.mix_coarse = _C2f(384, 256, 1), _C2f(768, 512, 1)
        widths = (128, 256, 512)
        self.boxes = nn.ModuleList(_head(width, 64, 4 * BINS) for width in widths)
        self.scores = nn.ModuleList(_head(width, 128, OBJECTS) for width in widths)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.up_middle(torch.cat([_double(coarse), middle], 1))
        fine = self.up_fine(torch.cat([_double(middle), fine], 1))
        middle = self.mix_middle(torch.cat([self.down_middle(fine), middle], 1))
        coarse = self.mix_coarse(torch.cat([self.down_coarse(middle), coarse], 1))
        maps = (fine, middle, coarse)
        boxes = torch.cat([self._place(place, found) for place, found in enumerate(maps)], 2)
        scores = [head(found).flatten(2) for head, found in zip(self.scores, maps, strict=True)]
        return torch.cat([boxes, torch.cat(scores, 2).sigmoid()], 1)

    def _place(self, place: int, found: Tensor) -> Tensor:
        """Return ``(N, 4, cells)``: centres and sizes in pixels of one map's boxes."""
        height, width = found.shape[2:]
        sides = self.boxes[place](found).reshape(-1, 4, BINS, height * width).softmax(2)
        left, top, right, bottom = (sides * self.bins.view(1, 1, BINS, 1)).sum(2).unbind(1)
        rows, columns = torch.meshgrid(
            torch.arange(height, device=found.device, dtype=found.dtype),
            torch.arange(width, device=found.device, dtype=found.dtype),
            indexing="ij",
        )
        x, y = columns.flatten() + 0.5, rows.flatten() + 0.5
        centres = (x + (right - left) / 2, y + (bottom - top) / 2)
        return torch.stack([*centres, left + right, top + bottom], 1) * (8 * 2**place)


def _head(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        _silu(inputs, width, 3), _silu(width, width, 3), nn.Conv2d(width, outputs, 1)
    )


def _double(images: Tensor) -> Tensor:
    return functional.interpolate(images, scale_factor=2.0, mode="nearest")


class _Attention(nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inside, self.outside = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.inside(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.outside(mixed.transpose(1, 2).flatten(2))


class _Block(nn.Module):  # type: ignore[misc] # torch is not followed
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention = _Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.first(tokens))
        return tokens + self.mlp(self.second(tokens))


class VitB16(nn.Module):  # type: ignore[misc] # torch is not followed
    """``(N, 3, size, size)`` to logits ``(N, 1000)``."""

    def __init__(self, *, size: int = 224) -> None:
        super().__init__()
        width, heads, depth, patch = 768, 12, 12, 16
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        token = self.token.expand(patches.shape[0], -1, -1)
        tokens = self.blocks(torch.cat([token, patches], 1) + self.places)
        return self.head(self.norm(tokens)[:, 0])


def tiny() -> nn.Module:
    """Return a classifier of ``(N, 3, H, W)`` that any machine runs at once: for dry runs.

    Other pictures get other answers, as the parts of a picture count each for itself.
    """
    widths, parts = (3, 8, 16), 4
    layers = [Convolution(a, b, 3, 2, act=nn.ReLU()) for a, b in pairwise(widths)]
    head = nn.Linear(widths[-1] * parts**2, CLASSES)
    nn.init.normal_(head.weight, std=0.5)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(parts), nn.Flatten(), head)
