from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from visionmesh.models.graphs import CANNOT_RAISE, OPSET, fixed_batch, opset, raised


def network(kind: str, *, version: int | None, batch: int | str = "n") -> onnx.ModelProto:
    """Return one operator on vectors of four numbers, of an opset, or only of another domain."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in ("x", "y")
    ]
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "g", ends[:1], ends[1:])
    told = helper.make_opsetid("own", 3) if version is None else helper.make_opsetid("", version)
    return helper.make_model(graph, opset_imports=[told], ir_version=4)


def test_older_operators_become_newer_ones_that_compute_the_same() -> None:
    old = network("Softmax", version=9)
    new = raised(old)
    assert (opset(old), opset(new)) == (9, OPSET)
    images = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})[0]
        for model in (old, new)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_operators_that_cannot_be_raised_are_told_by_the_errors_that_are_named() -> None:
    with pytest.raises(CANNOT_RAISE, match="Unheard"):
        raised(network("Unheard", version=9))


def test_a_network_without_operators_of_onnx_needs_none_newer() -> None:
    assert opset(network("Relu", version=None)) == OPSET


@pytest.mark.parametrize(("batch", "fixed"), [("n", None), (1, 1), (8, 8)])
def test_a_batch_is_fixed_where_it_is_a_number(batch: int | str, fixed: int | None) -> None:
    assert fixed_batch(network("Relu", version=17, batch=batch)) == fixed
