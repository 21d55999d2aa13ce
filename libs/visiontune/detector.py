"""A small detector without anchors: one prediction for each cell of 8 by 8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDE = 8
"""Height and width of a cell in pixels."""
_UNIT = 16.0
"""Pixels from a cell's centre to a box's side for a raw output of about 1."""
_RARE = -4.6
"""Logit of the first guess of a score: 1 in 100, since most cells see nothing."""


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):  # type: ignore[misc] # torch is not followed
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = features + self.body(features)
        return added


class Detector(nn.Module):  # type: ignore[misc] # torch is not followed
    """Finds small things: strokes of a few pixels, in boxes of some 20 to 100 pixels.

    Fine features at stride 8 say what it is, coarse ones at stride 16 what surrounds it. Called
    with (N, 1, H, W) float32 in 0 to 1, H and W multiples of 16, it returns the raw output,
    (N, 4 + classes, H / 8, W / 8): distances to a box's left, top, right and bottom side before
    `sides`, and the classes' logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            _conv(1, 8, stride=2),
            _conv(8, 32, stride=2),
            _conv(32, 32, stride=2),
            Residual(32),
        )
        self.coarse = nn.Sequential(_conv(32, 64, stride=2), Residual(64), nn.Conv2d(64, 32, 1))
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.merge = _conv(32, 32)
        self.head = nn.Conv2d(32, 4 + classes, 1)
        nn.init.constant_(self.head.bias[4:], _RARE)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        merged = self.merge(fine + self.enlarge(self.coarse(fine)))
        raw: Tensor = self.head(merged)
        return raw


def sides(raw: Tensor) -> Tensor:
    """Return the distances in pixels, (N, 4, H, W), from the centre of a cell to a box's sides."""
    return nn.functional.softplus(raw[:, :4]) * _UNIT


def cell_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return x, (1, width), and y, (height, 1), of the cells' centres in pixels."""
    y = (torch.arange(height, dtype=torch.float32) + 0.5) * STRIDE
    x = (torch.arange(width, dtype=torch.float32) + 0.5) * STRIDE
    return x[None, :], y[:, None]


class Exported(nn.Module):  # type: ignore[misc] # torch is not followed
    """A detector with its decoding: (N, 1, H, W) to (N, 4 + classes, cells).

    The rows are centre x and y, width and height in pixels and the classes' scores in 0 to 1.
    ``size`` is the height and width of the images.
    """

    def __init__(self, detector: Detector, *, size: int) -> None:
        super().__init__()
        self.detector = detector
        x, y = cell_centres(size // STRIDE, size // STRIDE)
        self.values = detector.head.out_channels
        self.register_buffer("x", x)
        self.register_buffer("y", y)

    def forward(self, images: Tensor) -> Tensor:
        raw = self.detector(images)
        left, top, right, bottom = sides(raw).split(1, dim=1)
        scores = raw[:, 4:].sigmoid()
        rows = [
            self.x + (right - left) / 2,
            self.y + (bottom - top) / 2,
            left + right,
            top + bottom,
            scores,
        ]
        # Told in numbers, so that the file says what it gives for each image.
        return torch.cat(rows, dim=1).reshape(-1, self.values, self.x.numel() * self.y.numel())
