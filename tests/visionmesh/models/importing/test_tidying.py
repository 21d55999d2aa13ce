"""Whatever is made of a network, it says what it said before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array

from visionmesh.models.graphs import OPSET
from visionmesh.models.importing.probe import images
from visionmesh.models.importing.tidying import tidy

IMAGES = images(7, (3, 8, 6), "float32")


def run(model: ModelProto, batch: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    answer: NDArray[Any] = session.run(None, {"image": batch})[0]
    return answer


def network(
    *nodes: onnx.NodeProto,
    shape: tuple[int | str, ...] = (1, 3, 8, 6),
    out: tuple[int | str, ...] = (1, 2, 72),
    opset: int = 17,
    inputs: bool = False,
    **constants: NDArray[Any],
) -> ModelProto:
    stored = [from_array(array, name) for name, array in constants.items()]
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    if inputs:
        given += [
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in stored
        ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, out)]
    graph = helper.make_graph(nodes, "g", given, outputs, stored)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=4)


def reshaping(target: list[int], batch: int | str = 1) -> ModelProto:
    image = np.empty((1, 3, 8, 6), np.float32)
    return network(
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("Reshape", ["x", "target"], ["out"]),
        shape=(batch, *image.shape[1:]),
        out=(batch, *image.reshape(target).shape[1:]),
        target=np.array(target, np.int64),
    )


def test_old_operators_become_newer_ones() -> None:
    model = network(
        helper.make_node("Slice", ["image"], ["out"], axes=[2], starts=[0], ends=[4]),
        opset=9,
        out=(1, 3, 4, 6),
    )
    done = tidy(model, IMAGES)
    assert done.model.opset_import[0].version == OPSET
    assert np.array_equal(run(done.model, IMAGES[:1]), IMAGES[:1, :, :4])


def test_weights_are_no_inputs_and_constants_are_folded() -> None:
    model = network(
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Add", ["image", "c"], ["out"]),
        shape=("n", 3, 8, 6),
        out=("n", 3, 8, 6),
        inputs=True,
        a=np.array([2], np.float32),
        b=np.array([3], np.float32),
    )
    done = tidy(model, IMAGES)
    assert [value.name for value in done.model.graph.input] == ["image"]
    assert [node.op_type for node in done.model.graph.node] == ["Add"]
    assert np.allclose(run(done.model, IMAGES), IMAGES + 6)


def mixing(batch: int | str) -> ModelProto:
    """Return a network that takes the mean over the batch for the image's own."""
    shape = (batch, 3, 8, 6)
    return network(
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["x"]),
        helper.make_node("Add", ["x", "image"], ["out"]),
        shape=shape,
        out=shape,
    )


@pytest.mark.parametrize("shape", [[1, 2, 72], [1, -1, 72], [1, 144]])
def test_a_batch_of_one_becomes_free(shape: list[int]) -> None:
    done = tidy(reshaping(shape), IMAGES)
    assert (done.batch, done.notes) == (None, [])
    for size in (1, 2, 7):
        wanted = IMAGES[:size].reshape(size, *shape[1:])
        assert np.array_equal(run(done.model, IMAGES[:size]), wanted)


def test_the_shapes_of_a_freed_batch_are_told_anew() -> None:
    done = tidy(reshaping([1, 2, 72]), IMAGES)
    for value in (*done.model.graph.input, *done.model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert [d.dim_value for d in done.model.graph.output[0].type.tensor_type.shape.dim][1:] == [
        *(2, 72)
    ]


def test_a_batch_stays_one_where_images_would_mix() -> None:
    done = tidy(mixing(1), IMAGES)
    assert done.batch == 1
    assert "something else of an image when others are beside it" in done.notes[0]
    assert np.array_equal(run(done.model, IMAGES[:1]), IMAGES[:1])


def test_a_free_batch_that_a_shape_denies_is_made_free() -> None:
    done = tidy(reshaping([1, 2, 72], "n"), IMAGES)
    assert done.batch is None
    assert np.array_equal(run(done.model, IMAGES), IMAGES.reshape(7, 2, 72))


def test_a_free_batch_that_does_not_hold_is_fixed() -> None:
    done = tidy(mixing("n"), IMAGES)
    assert done.batch == 1
    assert np.array_equal(run(done.model, IMAGES[:1]), IMAGES[:1])


def test_a_batch_of_four_is_left_as_it_is() -> None:
    model = network(
        helper.make_node("Relu", ["image"], ["out"]), shape=(4, 3, 8, 6), out=(4, 3, 8, 6)
    )
    done = tidy(model, IMAGES)
    assert done.batch == 4
    assert np.array_equal(run(done.model, IMAGES[:4]), IMAGES[:4])


def test_half_precision_stays_half() -> None:
    model = network(
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "w"], ["x"]),
        helper.make_node("Cast", ["x"], ["out"], to=TensorProto.FLOAT),
        out=(1, 3, 8, 6),
        w=np.array([2], np.float16),
    )
    done = tidy(model, IMAGES)
    assert [node.op_type for node in done.model.graph.node] == ["Cast", "Mul", "Cast"]


def test_outputs_without_a_batch_get_one() -> None:
    model = network(
        helper.make_node("Squeeze", ["image", "first"], ["out"]),
        out=(3, 8, 6),
        first=np.array([0], np.int64),
    )
    done = tidy(model, IMAGES)
    assert done.batch == 1
    assert np.array_equal(run(done.model, IMAGES[:1]), IMAGES[:1])
