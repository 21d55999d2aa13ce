"""Which node computes an image. Within a node, who is free pulls it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

from visionmesh.models.spec import Policy, Routing
from visionmesh.subjects import ANY_LANE

LEEWAY = timedelta(milliseconds=100)
"""How much more a node may have to do than the least busy one before its images are for all."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node that serves a model."""

    devices: frozenset[str]
    backlog: timedelta
    """How long the least busy of its workers has something to do."""


class Router:
    """Chooses lanes; ``places`` tells the nodes that serve a model now, by name."""

    def __init__(self, *, node: str, places: Callable[[str], Mapping[str, Place]]) -> None:
        self._node = node
        self._places = places
        self._turns: defaultdict[str, count[int]] = defaultdict(count)
        self._credit: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def lane(self, model: str, routing: Routing, source: str) -> str:
        """Return the lane for an image of ``source``: a node, or whoever is free."""
        places = self._places(model)
        if not places:
            return ANY_LANE
        match routing.policy:
            case Policy.LEAST_LOADED:
                return self._near(places)
            case Policy.ROUND_ROBIN:
                nodes = sorted(places)
                return nodes[next(self._turns[model]) % len(nodes)]
            case Policy.WEIGHTED:
                return self._weighted(model, routing, places)
            case Policy.AFFINITY:
                return max(places, key=lambda node: _draw(node, source))

    def _near(self, places: Mapping[str, Place]) -> str:
        own = places.get(self._node)
        least = min(place.backlog for place in places.values())
        return ANY_LANE if own is None or own.backlog > least + LEEWAY else self._node

    def _weighted(self, model: str, routing: Routing, places: Mapping[str, Place]) -> str:
        """Take turns in proportion to the weights, as evenly spread as they allow.

        Each turn every node gets its weight as credit, and the richest pays the sum of all (nginx's
        smooth weighted round-robin).
        """
        weights = {node: _weight(routing, node, place) for node, place in sorted(places.items())}
        total = sum(weights.values())
        if not total:
            return ANY_LANE
        old = self._credit[model]
        credit = {node: old.get(node, 0.0) + weight for node, weight in weights.items()}
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= total
        self._credit[model] = credit
        return chosen


def _weight(routing: Routing, node: str, place: Place) -> float:
    if node in routing.weights:
        return routing.weights[node]
    named = [routing.weights[device] for device in place.devices if device in routing.weights]
    return max(named, default=1.0)


def _draw(node: str, source: str) -> bytes:
    """Return what a node draws for a source; the highest has it, so a death moves only its own."""
    return hashlib.blake2b(f"{node}\0{source}".encode(), digest_size=8).digest()
