"""Small vision transformers of PyTorch, written in the ways that there are. It wants PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

SIZE, PATCH, WIDTH, HEADS, CLASSES = 32, 8, 64, 4, 10
LAYERS = 2


class Fused(nn.Module):  # type: ignore[misc]  # it has no types
    """One layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, length, _ = x.shape
        parts = self.qkv(x).reshape(count, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(count, length, WIDTH))


class Separate(nn.Module):  # type: ignore[misc]  # it has no types
    """A layer for each, and attention spelled out; queries and keys are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH // HEADS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, length, _ = x.shape
        q, k, v = (
            layer(x).view(count, length, HEADS, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = self.norm(q) @ self.norm(k).transpose(-2, -1) * (WIDTH // HEADS) ** -0.5
        return self.proj((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Own(nn.Module):  # type: ignore[misc]  # it has no types
    """PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Plain(nn.Module):  # type: ignore[misc]  # it has no types
    """Two layers with an activation between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Gated(nn.Module):  # type: ignore[misc]  # it has no types
    """One half of the units gates the other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(functional.silu(gate) * value)


class Block(nn.Module):  # type: ignore[misc]  # it has no types
    def __init__(self, attention: type[nn.Module], mlp: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), attention()
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):  # type: ignore[misc]  # it has no types
    """``(N, 3, 32, 32)`` images to ``scores``, (N, 10)."""

    def __init__(
        self, attention: type[nn.Module] = Fused, mlp: type[nn.Module] = Plain, *, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block(attention, mlp) for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return {"scores": self.head(self.norm(self.blocks(x))[:, 0])}


def save_program(network: nn.Module, file: Path, *, batch: int | None = None) -> Path:
    """Write ``network`` as an exported program, for any number of images or for ``batch``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = torch.rand(batch or 2, 3, SIZE, SIZE)
    shapes = None if batch else ({0: torch.export.Dim("N", min=1, max=256)},)
    torch.export.save(
        torch.export.export(network.eval(), (images,), dynamic_shapes=shapes), str(file)
    )
    return file


def answer_of(network: Callable[..., Any], images: Any) -> Any:
    """Return what a network says, as NumPy's arrays by name."""
    with torch.no_grad():
        answer = network(torch.as_tensor(images))
    return {name: value.numpy() for name, value in answer.items()}


def held_bytes(network: Any) -> int:
    """Return how many bytes of weights this process holds of a network that may be split."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return sum(
        (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage().nbytes()
        for tensor in tensors.values()
    )
