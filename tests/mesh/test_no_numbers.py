"""A network that says NaN: an error result for that image, and no NaN in any JSON."""

from __future__ import annotations

from pathlib import Path

import cv2
import httpx
import nats
import numpy as np
import onnx
from onnx import helper
from onnx.numpy_helper import from_array

from tests.mesh.conftest import write_classifier
from tests.polling import until
from visionmesh.client import Mesh
from visionmesh.contracts import Status
from visionmesh.errors import Code
from visionmesh.local import LocalMesh
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry

NAME = "dazzled"


def write_dazzled(root: Path) -> Path:
    """Write a classifier with the square root of what bright images make negative."""
    folder = write_classifier(root, name=NAME)
    file = folder / "1" / "model.onnx"
    model = onnx.load(file)
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["half", "mean"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Unsqueeze", ["root", "one"], ["column"]),
        helper.make_node("Mul", ["scores", "column"], ["changed"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(from_array(np.array(0.5, np.float32), "half"))
    model.graph.initializer.append(from_array(np.array([1]), "one"))
    model.graph.output[0].name = "changed"
    onnx.save(model, file)
    return folder


def grey(value: int) -> bytes:
    return cv2.imencode(".png", np.full((40, 40, 3), value, np.uint8))[1].tobytes()


async def test_what_is_not_a_number_ends_in_an_error(
    local_mesh: LocalMesh, mesh: Mesh, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    nc = await nats.connect(local_mesh.nats_url)
    registry = Registry(nc)
    await registry.push(load_folder(write_dazzled(tmp_path)))

    async def ready() -> bool:
        return (await mesh.infer(NAME, grey(20))).status is Status.OK

    await until(ready)
    dead = await nc.subscribe(f"vm.dead.*.{NAME}")
    results = await nc.subscribe(f"vm.results.{NAME}.>")

    event = await mesh.infer(NAME, grey(230))
    answer = await http.post(f"/v1/models/{NAME}/infer", content=grey(231))
    dark = await mesh.infer(NAME, grey(21))

    assert event.error is not None
    assert (event.status, event.error.code) == (Status.ERROR, Code.MODEL_FAILED)
    assert answer.json()["error"]["code"] == Code.MODEL_FAILED
    assert dark.status is Status.OK
    assert (await dead.next_msg(timeout=5)).data == grey(230)
    for text in (answer.content, (await results.next_msg(timeout=5)).data):
        assert b"not finite" in text
        assert b"nan" not in text.lower()
    await registry.remove(NAME)
    await nc.close()
