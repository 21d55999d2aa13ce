"""Which node an image goes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from visionmesh.models.spec import Policy, Routing
from visionmesh.routing import Place, Router
from visionmesh.subjects import ANY_LANE


def place(backlog_ms: int = 0, device: str = "cpu") -> Place:
    return Place(devices=frozenset({device}), backlog=timedelta(milliseconds=backlog_ms))


def lanes(
    policy: Policy,
    places: Mapping[str, Place],
    count: int,
    *,
    own: str = "a",
    weights: Mapping[str, float] = MappingProxyType({}),
) -> list[str]:
    router = Router(node=own, places=lambda _: places)
    routing = Routing(policy=policy, weights=dict(weights))
    return [router.lane("cats", routing, f"cam{number}") for number in range(count)]


def test_without_a_node_that_serves_it_an_image_waits_for_anybody() -> None:
    for policy in Policy:
        assert lanes(policy, {}, 1) == [ANY_LANE]


def test_an_image_stays_on_its_node_unless_others_have_much_less_to_do() -> None:
    def near(own: int, other: int) -> str:
        return lanes(Policy.LEAST_LOADED, {"a": place(own), "b": place(other)}, 1)[0]

    assert (near(0, 0), near(90, 0), near(500, 450)) == ("a", "a", "a")
    assert near(500, 0) == ANY_LANE
    assert lanes(Policy.LEAST_LOADED, {"b": place()}, 1) == [ANY_LANE]


def test_nodes_take_turns() -> None:
    places = {"b": place(), "a": place(900), "c": place()}
    assert lanes(Policy.ROUND_ROBIN, places, 6) == ["a", "b", "c"] * 2


def test_turns_follow_the_weights_of_nodes_before_those_of_devices() -> None:
    places = {"a": place(), "b": place(device="cuda"), "c": place(device="cuda")}
    turns = lanes(Policy.WEIGHTED, places, 12, weights={"cuda": 4, "b": 1})
    assert Counter(turns) == {"a": 2, "b": 2, "c": 8}
    assert lanes(Policy.WEIGHTED, {"a": place()}, 1, weights={"a": 0}) == [ANY_LANE]


@given(weights=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1))
def test_a_round_of_turns_is_shared_out_exactly(weights: dict[str, int]) -> None:
    places = {node: place() for node in weights}
    turns = lanes(Policy.WEIGHTED, places, sum(weights.values()), weights=weights)
    assert Counter(turns) == weights


def test_the_turns_of_a_heavy_node_are_spread() -> None:
    assert lanes(Policy.WEIGHTED, {"a": place(), "b": place()}, 4, weights={"a": 3}) == [
        "a",
        "a",
        "b",
        "a",
    ]


def test_a_source_keeps_its_node_until_that_dies() -> None:
    places = {node: place() for node in "abcd"}
    before = lanes(Policy.AFFINITY, places, 400)
    assert before == lanes(Policy.AFFINITY, places, 400, own="c")
    assert all(count > 50 for count in Counter(before).values())

    after = lanes(Policy.AFFINITY, {node: places[node] for node in "abd"}, 400)
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "c")
