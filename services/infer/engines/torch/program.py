"""A version's exported program, loaded after it was looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing.programs import DAMAGE, read_interface

FAILURES = (RuntimeError, IndexError, TypeError, ValueError)
"""What PyTorch raises when a network does not work on its input."""
_NO_MEMORY = re.compile(r"out of memory|STATUS_\w*ALLOC(ATION)?_FAILED")
"""What libraries and graphs say that take memory by themselves, not from PyTorch."""

_WEIGHTED = frozenset(
    {
        torch.ops.aten.linear.default,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.conv2d.padding,
    }
)
"""What has weights and a bias as its second and third argument, and autocast computes in halves."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network as a graph of operators, with its weights in the host's memory."""

    network: fx.GraphModule
    shape: tuple[int, ...]
    """Of one image, as the network takes it."""
    dtype: torch.dtype
    batch: int | None
    """The only batch size that it takes; `None`: any."""


def load_program(file: Path, *, name: str, halves: torch.dtype | None = None) -> Program:
    """Return the program in ``file``, which may have any name; for autocast, in ``halves``.

    Raises
    ------
    ConfigurationError
        (model_unsafe) if it would run code; (model_invalid) if it cannot be loaded, or does not
        return tensors by name. ``name`` is the model's, for the message.
    """
    interface = read_interface(file)
    if not interface.outputs or None in interface.shape[1:]:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"The program of model {name!r} must return a mapping of tensors by the names of the "
            "network's outputs, and take images of one size; import it again.",
        )
    try:
        # By its name PyTorch would take the file for something else.
        with file.open("rb") as source:
            exported = torch.export.load(source)
        network = exported.module(check_guards=False)
    except DAMAGE as error:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"PyTorch {torch.__version__} cannot load the program of model {name!r}: "
            f"{reason(error)}.",
        ) from error
    batch, *shape = interface.shape
    network.requires_grad_(False)
    if halves is not None:
        _halve(network, halves)
    return Program(
        network=network,
        shape=tuple(int(size or 0) for size in shape),
        dtype=getattr(torch, interface.dtype),
        batch=batch,
    )


def _halve(network: fx.GraphModule, dtype: torch.dtype) -> None:
    """Keep in ``dtype`` the weights that autocast would turn into it for every batch."""
    for node in network.graph.nodes:
        if node.op == "get_attr" and all(_is_weight(node, user) for user in node.users):
            path, _, name = str(node.target).rpartition(".")
            owner = network.get_submodule(path)
            whole = getattr(owner, name)
            setattr(owner, name, torch.nn.Parameter(whole.to(dtype), requires_grad=False))


def _is_weight(stored: fx.Node, user: fx.Node) -> bool:
    return user.target in _WEIGHTED and stored in user.args[1:3] and stored is not user.args[0]


def move(network: fx.GraphModule, device: torch.device) -> None:
    """Move weights to ``device``, and let what the graph makes by itself be made there."""
    for module in network.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.args = _moved(node.args, device)
                node.kwargs = _moved(node.kwargs, device)
            module.recompile()
    network.to(device)


def _moved(value: Any, device: torch.device) -> Any:
    return fx.node.map_aggregate(
        value, lambda part: device if isinstance(part, torch.device) else part
    )


def named(answer: Any) -> dict[str, torch.Tensor]:
    """Return a network's answer by name, in types that others know."""
    assert isinstance(answer, Mapping), "load_program has seen to it"
    return {
        str(name): value.float() if value.dtype is torch.bfloat16 else value.contiguous()
        for name, value in answer.items()
    }


def reason(error: Exception) -> str:
    """Return what an error of PyTorch says, in its first line."""
    return str(error).strip().partition("\n")[0].rstrip(". ")


def lacks_memory(error: Exception) -> bool:
    """Say whether an error of PyTorch means that the device has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))
