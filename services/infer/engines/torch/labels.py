"""Which features of a network belong together, seen by following them through its graph.

A label is the number of one output feature of the linear layers in hand. Operations that only move
values are run on labels as they are. Operations that mix values say which features need each
other: those of an attention head, or the two halves of a gated layer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
LINEAR = _ATEN.linear.default
_BATCH = 2
"""With which shapes are looked at: 1 could not be told from what is broadcast."""
_MOVES = frozenset(
    {
        *(operator.getitem, _ATEN.view.default, _ATEN.reshape.default, _ATEN._unsafe_view.default),
        *(_ATEN.permute.default, _ATEN.transpose.int, _ATEN.t.default, _ATEN.flatten.using_ints),
        *(_ATEN.unflatten.int, _ATEN.squeeze.dim, _ATEN.unsqueeze.default, _ATEN.expand.default),
        *(_ATEN.select.int, _ATEN.slice.Tensor, _ATEN.unbind.int, _ATEN.chunk.default),
        *(_ATEN.split.Tensor, _ATEN.split.sizes, _ATEN.split_with_sizes.default),
        *(_ATEN.contiguous.default, _ATEN.clone.default, _ATEN.cat.default, _ATEN.stack.default),
    }
)
_VIEWS = frozenset({_ATEN.view.default, _ATEN._unsafe_view.default})
_KEEPS = frozenset(
    {
        *(_ATEN.dropout.default, _ATEN.to.dtype, _ATEN._to_copy.default, _ATEN.alias.default),
        *(_ATEN.gelu.default, _ATEN.silu.default, _ATEN.relu.default),
    }
)
"""What computes each value of its own, beside what PyTorch says so of."""


class Split(Exception):
    """These features cannot be shared out; the text says why."""


class Features:
    """The features of some linear layers, in classes of those that need each other."""

    def __init__(self, count: int) -> None:
        self._root = torch.arange(count)

    def join(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Say that the features in ``one`` need those at the same places in ``other``."""
        count = len(self._root)
        pairs = torch.unique(one.reshape(-1) * count + other.reshape(-1))
        first, second = pairs // count, pairs % count
        while True:
            least = torch.minimum(self._root[first], self._root[second])
            new = self._root.clone()
            for found in (self._root[first], self._root[second], first, second):
                new.scatter_reduce_(0, found, least, "amin")
            new = new[new]
            if torch.equal(new, self._root):
                return
            self._root = new

    def mix(self, labels: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
        """Join what differs along ``dims`` only; return labels that are the same along them."""
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        first = first.expand_as(labels)
        self.join(first, labels)
        return first

    def units(self) -> torch.Tensor:
        """Return the number of each feature's class, in the order of their first features."""
        numbers: torch.Tensor = torch.unique(self._root, return_inverse=True)[1]
        return numbers


def is_followed(node: Any) -> bool:
    """Say whether labels can be taken through a node of a graph."""
    return node.op == "call_function" and (
        node.target in _MOVES or node.target in _MIXERS or _is_pointwise(node)
    )


def is_move(node: Any) -> bool:
    """Say whether the node's operation gives labels as it gives values."""
    return node.target in _MOVES


def _is_pointwise(node: Any) -> bool:
    return node.target in _KEEPS or torch.Tag.pointwise in getattr(node.target, "tags", ())


def follow(node: Any, args: Sequence[Any], features: Features) -> Any:
    """Return the labels of a node's output; ``args`` has labels where values of features are.

    Raises `Split` if features are mixed in a way that is not known.
    """
    if node.target in _MOVES:
        return move(node, args)
    if node.target in _MIXERS:
        return _MIXERS[node.target](features, *args)
    given = torch.broadcast_tensors(*(arg for arg in args if isinstance(arg, torch.Tensor)))
    for other in given[1:]:
        features.join(given[0], other)
    return given[0]


def move(node: Any, args: Sequence[Any]) -> Any:
    """Return what a moving operation makes of labels."""
    # Labels lie in memory otherwise than values.
    target = _ATEN.reshape.default if node.target in _VIEWS else node.target
    return target(*args, **node.kwargs)


def _attention(features: Features, query: Any, key: Any, value: Any, *options: Any) -> torch.Tensor:
    """A head is whatever is computed by itself: all but the last two dimensions."""
    if any(isinstance(option, torch.Tensor) for option in options):
        raise Split("its attention has a mask that is computed")
    heads = [features.mix(labels, (-2, -1)) for labels in (query, key, value)]
    firsts = [labels[..., 0, 0] for labels in heads]
    for other in firsts[1:]:
        features.join(firsts[0], other)
    return heads[0][..., :1].expand(*query.shape[:-1], value.shape[-1])


def _product(features: Features, left: Any, right: Any) -> torch.Tensor:
    if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)):
        raise Split("a product has a constant factor")
    sides = [features.mix(labels, (-2, -1))[..., :1, :1] for labels in (left, right)]
    one, other = torch.broadcast_tensors(*sides)
    features.join(one, other)
    return one.expand(*one.shape[:-2], left.shape[-2], right.shape[-1])


def _softmax(features: Features, labels: torch.Tensor, dim: int, *_: Any) -> torch.Tensor:
    return features.mix(labels, (dim,))


def _norm(features: Features, labels: torch.Tensor, shape: Sequence[int], *_: Any) -> torch.Tensor:
    return features.mix(labels, tuple(range(-len(shape), 0)))


_MIXERS: dict[Any, Callable[..., torch.Tensor]] = {
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.matmul.default: _product,
    _ATEN.bmm.default: _product,
    _ATEN.softmax.int: _softmax,
    _ATEN._softmax.default: _softmax,
    _ATEN.layer_norm.default: _norm,
    _ATEN.rms_norm.default: _norm,
}


def values_of(args: Any, labels: Mapping[fx.Node, Any]) -> Any:
    """Return arguments with labels for features, sizes for `_BATCH` images, no constants."""
    return fx.node.map_arg(
        args, lambda node: labels[node] if node in labels else size_of(node.meta.get("val"))
    )


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's output for `_BATCH` images."""
    return tuple(size_of(size) for size in node.meta["val"].shape)


def size_of(value: Any) -> Any:
    """Return a size as it is with `_BATCH` images; nothing for what is no size."""
    if isinstance(value, torch.SymInt):
        expression = value.node.expr
        return int(expression.xreplace(dict.fromkeys(expression.free_symbols, _BATCH)))
    return value if isinstance(value, int) else None


def each(labels: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an output, which may be several."""
    if isinstance(labels, torch.Tensor):
        yield labels
    else:
        yield from labels
