"""Who computes what between linear layers whose features are shared out among ranks.

Shapes that are written into a graph are those of all features, and a rank's are smaller. Whether
a division is right is not argued but tried: the labels of a rank's features go through the
rewritten operation, and must come out where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from services.infer.engines.torch.labels import Features, Split, each, is_move, move, values_of

_ATEN = torch.ops.aten
_SHAPED = frozenset(
    {
        *(_ATEN.view.default, _ATEN.reshape.default),
        *(_ATEN._unsafe_view.default, _ATEN.expand.default),
    }
)
_SPLIT = frozenset({_ATEN.split.sizes, _ATEN.split_with_sizes.default})
_END = 2**63 - 1
"""How a slice says that it goes to the end."""


class Owners:
    """Each feature's rank: equal blocks of the heads or units, in their order."""

    def __init__(self, features: Features, ranks: int) -> None:
        """Share out ``features``; raise `Split` if that cannot be even."""
        units = features.units()
        count = int(units.max()) + 1
        if count % ranks:
            what = "all features need each other" if count == 1 else f"{count} heads or units"
            raise Split(f"{what}, which {ranks} ranks cannot share evenly")
        self._owner = units // (count // ranks)
        self._ranks = ranks
        self._lines: dict[torch.Tensor, tuple[int, torch.Tensor]] = {}

    def line(self, labels: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Return the one dimension along which the ranks take turns, and the ranks along it.

        Raises `Split` if it is not one, or the ranks' parts are not of one size.
        """
        if labels not in self._lines:
            self._lines[labels] = self._line(self._owner[labels])
        return self._lines[labels]

    def _line(self, owners: torch.Tensor) -> tuple[int, torch.Tensor]:
        for dim in range(owners.ndim):
            line = owners[tuple(slice(None) if at == dim else 0 for at in range(owners.ndim))]
            across = line.view([-1 if at == dim else 1 for at in range(owners.ndim)])
            even = torch.bincount(line, minlength=self._ranks) * self._ranks == len(line)
            if bool(even.all()) and bool((owners == across).all()):
                return dim, line
        raise Split("its features are not shared out evenly along one dimension")

    def order(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the places in the last dimension: those of rank 0 first, each rank's in order.

        Raises `Split` if that is not the dimension along which the ranks take turns.
        """
        dim, line = self.line(labels)
        if dim != labels.ndim - 1:
            raise Split("its input is not shared out along its features")
        return torch.argsort(line, stable=True)

    def arguments(self, node: fx.Node, labels: dict[fx.Node, Any]) -> tuple[Any, ...] | None:
        """Return the arguments with which each rank calls an operation, if they are others.

        Raises `Split` if with none of them every rank gets its part of the output.
        """
        dim, dims = 0, 0
        for output in each(labels[node]):
            dim, dims = self.line(output)[0], output.ndim
        if not is_move(node):
            _require_even(node, dim, dims)
            return None
        for candidate in (node.args, *_divided(node, dim, dims, self._ranks)):
            if all(self._is_right(node, candidate, labels, rank) for rank in range(self._ranks)):
                return None if candidate is node.args else candidate
        raise Split(f"{node.name} is not written so that a part of the features can go through it")

    def _is_right(
        self, node: fx.Node, args: tuple[Any, ...], labels: dict[fx.Node, Any], rank: int
    ) -> bool:
        parts = {
            source: self._part(labels[source], rank)
            for source in node.all_input_nodes
            if source in labels
        }
        try:
            made = move(node, values_of(args, parts))
        except (RuntimeError, TypeError, IndexError):
            return False
        return all(map(torch.equal, each(made), each(self._part(labels[node], rank))))

    def _part(self, labels: Any, rank: int) -> Any:
        """Return what a rank has of the labels of an output."""
        if not isinstance(labels, torch.Tensor):
            return [self._part(one, rank) for one in labels]
        dim, line = self.line(labels)
        return labels.index_select(dim, (line == rank).nonzero()[:, 0])


def _require_even(node: fx.Node, dim: int, dims: int) -> None:
    """Raise `Split` if a constant differs between features: ranks have all of it."""
    for constant in node.all_input_nodes:
        if constant.op == "get_attr":
            shape = constant.meta["val"].shape
            at = dim - (dims - len(shape))
            if at >= 0 and shape[at] != 1:
                raise Split(f"{node.name} has a constant for each feature")


def _divided(node: fx.Node, dim: int, dims: int, ranks: int) -> Iterator[tuple[Any, ...]]:
    """Yield arguments that may be right where the output's dimension ``dim`` is shared out."""
    args: Any = node.args
    if node.target in _SHAPED:
        yield _with(args, 1, dim, -1)
        yield _with(args, 1, dim, _part(args[1][dim], ranks))
    elif node.target is _ATEN.unflatten.int:
        place = dim - args[1] % (dims - len(args[2]) + 1)
        if 0 <= place < len(args[2]):
            yield _with(args, 2, place, _part(args[2][place], ranks))
    elif node.target in _SPLIT:
        yield (args[0], [_part(size, ranks) for size in args[1]], *args[2:])
    elif node.target is _ATEN.split.Tensor:
        yield (args[0], _part(args[1], ranks), *args[2:])
    elif node.target is _ATEN.slice.Tensor:
        yield (*args[:2], *(_part(bound, ranks) for bound in args[2:4]), *args[4:])


def _with(args: tuple[Any, ...], at: int, place: int, size: Any) -> tuple[Any, ...]:
    sizes = [size if index == place else old for index, old in enumerate(args[at])]
    return (*args[:at], sizes, *args[at + 1 :])


def _part(size: Any, ranks: int) -> Any:
    """Return a rank's part of a size that is written down; others stay."""
    return size // ranks if isinstance(size, int) and 0 < size < _END else size
