"""Gives each rank its part of a network: linear layers with distributed weights, the rest whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from services.infer.engines.torch.splitting import Share, name_of


def shard(network: fx.GraphModule, shares: Iterable[Share], mesh: DeviceMesh) -> None:
    """Make ``network`` compute with this rank's part of ``shares``, on the CPU still.

    Column-wise layers take whole inputs and give parts of their outputs, row-wise ones take these
    and give the sum over all ranks: one collective for each share. The full weights are let go.
    """
    plan: dict[str, Any] = {}
    for share in shares:
        # First, as they name the operations that are replaced.
        for node, arguments in share.arguments.items():
            node.args = arguments
        for column, order in zip(share.columns, share.column_orders, strict=True):
            plan[_replace(network, column, rows=order)] = ColwiseParallel()
        plan[_replace(network, share.row, columns=share.row_order)] = RowwiseParallel()
    network.graph.lint()
    network.recompile()
    # Every rank has read the same file: nobody needs to send weights.
    parallelize_module(network, mesh, plan, src_data_rank=None)


def _replace(
    network: fx.GraphModule,
    node: fx.Node,
    *,
    rows: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
) -> str:
    """Put a layer with reordered weights in the place of an operation; return its name."""
    weight, bias = (_stored(network, arg) for arg in (*node.args[1:], None)[:2])
    if rows is not None:
        weight = weight[rows]
        bias = None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    name = f"split_{name_of(node).replace('.', '_')}"
    network.add_submodule(name, layer)
    with network.graph.inserting_before(node):
        called = network.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(called)
    stored = [arg for arg in node.args[1:] if isinstance(arg, fx.Node)]
    network.graph.erase_node(node)
    for source in stored:
        _forget(network, source)
    return name


def _stored(network: fx.GraphModule, node: Any) -> Any:
    if node is None:
        return None
    found: Any = network
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found.detach()


def _forget(network: fx.GraphModule, node: fx.Node) -> None:
    path, _, name = str(node.target).rpartition(".")
    delattr(network.get_submodule(path), name)
    network.graph.erase_node(node)
