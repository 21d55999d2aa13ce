"""A model that is slow, so that images wait for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save_model
from onnx.numpy_helper import from_array

from tests.mesh.conftest import SIZE, write_classifier
from tests.mesh.measured import measured
from visionmesh.bus import Connection
from visionmesh.client import Mesh
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry

_LAYERS, _PLANES = 24, 64


async def held(mesh: Mesh, *, least: int) -> bool:
    """Say whether the infer worker has so many images in hand."""
    return (await measured(mesh, "infer", "visionmesh_in_flight{")).total() >= least


async def push_slow(
    local_mesh: LocalMesh, root: Path, *, name: str = "slow", window: int = 64
) -> None:
    """Push a model that works on one image at a time, and on each for tens of milliseconds."""
    folder = write_classifier(
        root,
        name=name,
        window=window,
        cache={"enabled": False},
        batching={"max_size": 1},
        instances=[{"count": 1}],
    )
    save_slow_network(folder / "1" / "model.onnx")
    connection = await Connection.open(local_mesh.nats_url, name="pusher")
    await Registry(connection.client).push(load_folder(folder))
    await connection.close()


def save_slow_network(file: Path) -> None:
    """Write a classifier of `_LAYERS` convolutions, some 38 million multiplications each."""
    random = np.random.default_rng(0)
    kernels = {
        "first": random.normal(size=(_PLANES, 3, 3, 3)),
        "next": random.normal(scale=0.05, size=(_PLANES, _PLANES, 3, 3)),
        "last": random.normal(size=(4, _PLANES, 1, 1)),
    }
    names = ["first", *["next"] * _LAYERS]
    nodes = []
    tensor = "image"
    for number, kernel in enumerate(names):
        nodes.append(
            helper.make_node("Conv", [tensor, kernel], [f"planes{number}"], pads=[1, 1, 1, 1])
        )
        tensor = f"planes{number}"
    nodes += [
        helper.make_node("Conv", [tensor, "last"], ["classes"]),
        helper.make_node("GlobalAveragePool", ["classes"], ["means"]),
        helper.make_node("Flatten", ["means"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
        [from_array(values.astype(np.float32), name) for name, values in kernels.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    save_model(model, file)
