"""What follows from the records of workers."""

from __future__ import annotations

from tests.workers import make_loaded, make_record
from visionmesh.node_records import places_of


def test_a_node_is_known_by_the_kinds_of_devices_that_run_the_model_there() -> None:
    records = [
        make_record(node, ready=True, models={model: (1,)}, loaded=loaded)
        for node, model, loaded in (
            ("a", "cats", (make_loaded("cats", "cuda:1"), make_loaded("dogs", "cpu"))),
            ("b", "cats", (make_loaded("cats", "cpu"),)),
            ("c", "cats", ()),
            ("d", "dogs", (make_loaded("dogs", "cuda"),)),
        )
    ]
    kinds = {node: place.devices for node, place in places_of(records, "cats").items()}
    assert kinds == {"a": {"cuda"}, "b": {"cpu"}, "c": {"cpu"}}
