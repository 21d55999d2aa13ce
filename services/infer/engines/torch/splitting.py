"""Finds what tensor parallelism can share out: pairs of linear layers with heads or units between.

The weights of the layers before (column-wise) and of the one behind (row-wise) are put in an order
in which every rank's part is one contiguous block of whole heads or units. Between them each rank
computes its own part alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from services.infer.engines.torch.labels import (
    LINEAR,
    Features,
    Split,
    follow,
    is_followed,
    shape_of,
    size_of,
    values_of,
)
from services.infer.engines.torch.owners import Owners


@dataclass(frozen=True, kw_only=True)
class Share:
    """A row-wise linear layer, and the column-wise ones that feed it."""

    row: fx.Node
    columns: tuple[fx.Node, ...]
    row_order: torch.Tensor
    """The input features of `row`, (in,) int64, those of rank 0 first."""
    column_orders: tuple[torch.Tensor, ...]
    """The output features of each of `columns`, likewise."""
    arguments: dict[fx.Node, tuple[Any, ...]]
    """Of the operations between that are written for all features: as each rank calls them."""


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """What is between a row-wise layer and the column-wise ones, in the order of the graph."""

    row: fx.Node
    inner: tuple[fx.Node, ...]
    columns: tuple[fx.Node, ...]

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """Of all operations, one after the other, with repetitions."""
        return tuple(source for node in self.inner for source in node.all_input_nodes)

    def form(self) -> Hashable:
        """Return what is equal for stretches that are alike, as those of equal blocks are."""
        places = {node: at for at, node in enumerate((*self.columns, *self.inner))}

        def shown(node: fx.Node) -> Any:
            return places[node] if node in places else ("constant", _is_size(node), _value(node))

        return (
            places.get(self.row.args[0]),
            tuple(shape_of(column) for column in self.columns),
            *(
                (node.target, repr(fx.node.map_arg(node.args, shown)), repr(node.kwargs))
                for node in self.inner
            ),
        )


def name_of(linear: fx.Node) -> str:
    """Return the name of the layer that a node of a graph was: that of its weight, less that."""
    weight = str(linear.args[1].target if isinstance(linear.args[1], fx.Node) else "")
    return weight.removesuffix("weight").rstrip("._")


def find_shares(graph: fx.Graph, ranks: int) -> tuple[dict[str, Share], dict[str, str]]:
    """Return what can be shared out among ``ranks``, and why other layers cannot, by layer."""
    found: dict[str, Share] = {}
    refused: dict[str, str] = {}
    taken: set[fx.Node] = set()
    known: dict[Hashable, tuple[_Stretch, Share | Split]] = {}
    for row in _linears(graph):
        try:
            stretch = _stretch(row)
            share = _share(stretch, ranks, known)
            if taken & {row, *share.columns}:
                raise Split("a layer that feeds it is shared out already")
        except Split as why:
            refused[name_of(row)] = str(why)
            continue
        found[name_of(row)] = share
        taken |= {row, *share.columns}
    return found, refused


def _linears(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        if node.op == "call_function" and node.target is LINEAR:
            yield node


def _share(
    stretch: _Stretch, ranks: int, known: dict[Hashable, tuple[_Stretch, Share | Split]]
) -> Share:
    form = stretch.form()
    if form not in known:
        try:
            known[form] = stretch, _new_share(stretch, ranks)
        except Split as why:
            known[form] = stretch, why
    like, share = known[form]
    if isinstance(share, Split):
        raise share
    own = dict(zip((*like.inner, *like.inputs), (*stretch.inner, *stretch.inputs), strict=True))
    return Share(
        row=stretch.row,
        columns=stretch.columns,
        row_order=share.row_order,
        column_orders=share.column_orders,
        arguments={
            own[node]: fx.node.map_arg(args, own.__getitem__)
            for node, args in share.arguments.items()
        },
    )


def _new_share(stretch: _Stretch, ranks: int) -> Share:
    features, labels = _labelled(stretch)
    owners = Owners(features, ranks)
    changed = {node: owners.arguments(node, labels) for node in stretch.inner}
    entry: Any = stretch.row.args[0]
    return Share(
        row=stretch.row,
        columns=stretch.columns,
        row_order=owners.order(labels[entry]),
        column_orders=tuple(owners.order(labels[column]) for column in stretch.columns),
        arguments={node: args for node, args in changed.items() if args is not None},
    )


def _stretch(row: fx.Node) -> _Stretch:
    """Return the operations between ``row`` and the linear layers that alone feed it."""
    inner: set[fx.Node] = set()
    columns: set[fx.Node] = set()
    waiting: list[Any] = [row.args[0]]
    while waiting:
        node = waiting.pop()
        if node in inner or node in columns or node.op == "get_attr" or _is_size(node):
            continue
        if node.op == "call_function" and node.target is LINEAR:
            columns.add(node)
        elif is_followed(node):
            inner.add(node)
            waiting.extend(node.all_input_nodes)
        else:
            raise Split(f"{node.name} is between it and the linear layers before")
    if not columns:
        raise Split("no linear layer is before it")
    for node in (*inner, *columns):
        for user in node.users:
            if user is not row and user not in inner:
                raise Split(f"{user.name} needs a part of what is between, too")
    for linear in (row, *columns):
        _require_own_weights(linear)
    return _Stretch(
        row=row,
        inner=tuple(node for node in row.graph.nodes if node in inner),
        columns=tuple(node for node in row.graph.nodes if node in columns),
    )


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (int, torch.SymInt))


def _value(node: fx.Node) -> Any:
    return size_of(node.meta.get("val")) if _is_size(node) else shape_of(node)


def _require_own_weights(linear: fx.Node) -> None:
    for stored in linear.args[1:]:
        if not isinstance(stored, fx.Node):
            continue  # there is no bias
        if stored.op != "get_attr" or len(stored.users) > 1:
            raise Split(f"the weights of {name_of(linear) or linear.name} are not its own")


def _labelled(stretch: _Stretch) -> tuple[Features, dict[fx.Node, Any]]:
    labels: dict[fx.Node, Any] = {}
    count = 0
    for column in stretch.columns:
        shape = shape_of(column)
        labels[column] = torch.arange(count, count + shape[-1]).expand(shape).contiguous()
        count += shape[-1]
    features = Features(count)
    for node in stretch.inner:
        try:
            labels[node] = follow(node, values_of(node.args, labels), features)
        except (RuntimeError, TypeError, IndexError) as error:
            raise Split(f"{node.name} cannot be followed ({error})") from error
    return features, labels
