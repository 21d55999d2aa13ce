"""The blocking client is the asynchronous one, call by call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta

import pytest

from visionmesh.blocking import BlockingMesh
from visionmesh.client import Mesh
from visionmesh.errors import Code, Refused


def public(cls: type) -> dict[str, Callable[..., object]]:
    return {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_have_the_same_calls() -> None:
    assert public(BlockingMesh).keys() == public(Mesh).keys()
    assert {"publish", "infer", "result", "results", "nodes"} <= public(Mesh).keys()


@pytest.mark.parametrize("name", sorted(public(Mesh)))
def test_a_call_has_the_parameters_and_the_docstring_of_its_twin(name: str) -> None:
    blocking, asynchronous = public(BlockingMesh)[name], public(Mesh)[name]
    assert inspect.signature(blocking).parameters == inspect.signature(asynchronous).parameters
    assert inspect.getdoc(blocking) == inspect.getdoc(asynchronous)
    assert not inspect.iscoroutinefunction(blocking)
    assert not inspect.isasyncgenfunction(blocking)


def test_results_says_that_it_is_no_asynchronous_generator() -> None:
    returned = inspect.signature(BlockingMesh.results).return_annotation
    assert returned == "Generator[Result, None, None]"


def test_says_where_no_server_answers_and_leaves_no_thread() -> None:
    mesh = BlockingMesh("nats://127.0.0.1:9", connect_within=timedelta(seconds=1))
    with pytest.raises(Refused) as caught, mesh:
        raise AssertionError("opened")
    assert caught.value.code is Code.MESH_UNREACHABLE
    with pytest.raises(RuntimeError, match="not open"):
        mesh.nodes()
