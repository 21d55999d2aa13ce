"""Which instances of a model are for this node."""

from __future__ import annotations

from typing import Any

import pytest

from services.infer.turns import Elsewhere, turns_of
from tests.networks import describe
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import ModelSpec

ABSENT = "cuda:77"


def spec_of(*instances: dict[str, Any]) -> ModelSpec:
    return describe(instances=instances)


def devices(spec: ModelSpec) -> list[list[str]]:
    return [[one.device for one in turn.spec.instances] for turn in turns_of(spec)]


def test_instances_whose_device_is_not_here_are_left_out() -> None:
    spec = spec_of({"device": ABSENT}, {"device": "emulated"}, {"device": "cpu"})
    assert devices(spec) == [["emulated", "cpu"]]
    assert [turn.instead for turn in turns_of(spec)] == [""]


def test_those_that_stand_in_come_last_and_say_for_whom() -> None:
    spec = spec_of({"device": ABSENT}, {"fallback": True}, {"device": "emulated"})
    assert devices(spec) == [["emulated"], ["cpu"]]
    (only,) = turns_of(spec_of({"device": ABSENT}, {"fallback": True}))
    assert [one.device for one in only.spec.instances] == ["cpu"]
    assert only.instead


def test_one_that_stands_in_is_tuned_like_any_other() -> None:
    (only,) = turns_of(spec_of({"device": ABSENT}, {"fallback": True}))
    assert only.spec.instances == ModelSpec.model_fields["instances"].default


def test_a_model_for_devices_of_other_nodes_is_no_mistake_of_its_own() -> None:
    with pytest.raises(Elsewhere, match="'trees' is for other nodes: ") as raised:
        turns_of(spec_of({"device": ABSENT}))
    assert raised.value.code is Code.DEVICE_MISSING


@pytest.mark.parametrize(
    ("instance", "match"),
    [
        ({"device": "abacus"}, "no engine serves the device 'abacus'"),
        ({"engines": ["onnxruntime", "beads"]}, "no engine 'beads' serves the device 'cpu'"),
    ],
)
def test_a_mistake_is_told_even_where_other_instances_would_run(
    instance: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        turns_of(spec_of({}, instance))
