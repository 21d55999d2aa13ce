"""A network of ResNet-50's shape that recognises something real, made without training it.

Its convolutions are random; each channel is normalised over some photos, as batch normalisation
does, so that different photos stay different through all layers. What ends it is fitted by least
squares to know each of 80 photos again, in other sections and another light. So a rounding error
shows in its answers, and whether they are true is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from bench.load import PHOTOS
from visionmesh.models.folder import load_folder
from visionmesh.models.pictures import Picture
from visionmesh.workbench import Workbench

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and first stride of each (He et al., Deep Residual Learning, table 1)."""
SIZE = 224
CLASSES = 1000
"""Of ImageNet."""
FITTED = 3
"""Views of each photo."""
RIDGE = 0.01
"""Of the least squares, as a share of the mean square of the features."""
LOGIT = 10.0
NORMALISED_OVER = 8
BRANCH = 0.2
"""How much a block adds to what passes it by, as trained ones add little: with 1 the layers would
make more of a rounding error than of the image."""

Array = NDArray[np.float32]


def views(number: int, *, most: int | None = None) -> list[Picture]:
    """Return a section of each photo in some light, called like the photo: others each time."""
    random = np.random.default_rng(number)
    found = []
    for file in sorted(PHOTOS.glob("*.jpg"))[:most]:
        pixels = np.asarray(cv2.imread(str(file)))
        height, width = (round(size * random.uniform(0.85, 1)) for size in pixels.shape[:2])
        top = random.integers(pixels.shape[0] - height + 1)
        left = random.integers(pixels.shape[1] - width + 1)
        section = pixels[top : top + height, left : left + width]
        lit = cv2.convertScaleAbs(
            section, alpha=random.uniform(0.85, 1.15), beta=random.uniform(-15, 15)
        )
        found.append(Picture(cv2.imencode(".jpg", lit)[1].tobytes(), file.stem))
    return found


def resnet50_folder(root: Path, *, name: str = "resnet50") -> Path:
    """Write the model's folder, and return it."""
    folder = root / name
    (folder / "1").mkdir(parents=True)
    spec = {
        "task": "classification",
        "input": {
            "width": SIZE,
            "height": SIZE,
            "resize": "stretch",
            "scale": 1 / 255,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "output": {"decoder": "softmax", "top_k": 1},
        "labels": [picture.truth for picture in views(0)],
        "cache": {"enabled": False},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    weights = folder / "1" / "model.onnx"
    weights.touch()
    bench = Workbench(load_folder(folder).spec)
    fitting = [picture for number in range(FITTED) for picture in views(number)]
    samples = [bench.sample(picture.encoded) for picture in fitting]
    body = _Body(bench.tensor(samples[:: len(samples) // NORMALISED_OVER][:NORMALISED_OVER]))
    onnx.save(body.model("features", []), weights)
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    features = np.concatenate(
        [session.run(None, {"images": bench.tensor([sample])})[0] for sample in samples]
    )
    labels = bench.spec.labels
    truth = [labels.index(picture.truth or "") for picture in fitting]
    onnx.save(body.model("logits", _fitted(features, truth, len(labels))), weights)
    return folder


def save_imagenet(file: Path) -> Path:
    """Write the network with a random head of 1,000 classes, as for ImageNet: 102 MB."""
    random = np.random.default_rng(0)
    features = STAGES[-1][0] * 4
    head = random.normal(0, features**-0.5, (features, CLASSES)).astype(np.float32)
    body = _Body(random.normal(size=(2, 3, SIZE, SIZE)).astype(np.float32))
    onnx.save(body.model("logits", [head, np.zeros(CLASSES, np.float32)]), file)
    return file


class _Body:
    """Builds the network and runs it layer by layer, so that each can be normalised."""

    def __init__(self, images: Array) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        name, values = self._conv("images", images, 64, 7, 2)
        name, values = self._add("MaxPool", [name], [values], kernel_shape=[3, 3], strides=[2, 2],
                                 pads=[1, 1, 1, 1])  # fmt: skip
        for width, blocks, stride in STAGES:
            for block in range(blocks):
                name, values = self._block(name, values, width, 1 if block else stride)
        name, values = self._add("GlobalAveragePool", [name], [values])
        self._add("Flatten", [name], [values], output="features")

    def model(self, output: str, head: Sequence[Array]) -> onnx.ModelProto:
        """Return the network up to ``output``; ``head`` is a matrix and an offset, if anything."""
        nodes, weights = list(self._nodes), list(self._weights)
        if head:
            nodes.append(helper.make_node("Gemm", ["features", "head", "offset"], [output]))
            weights += [from_array(head[0], "head"), from_array(head[1], "offset")]
        size = head[0].shape[1] if head else STAGES[-1][0] * 4
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
        told = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", size])
        graph = helper.make_graph(nodes, "resnet50", [images], [told], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _block(self, name: str, values: Array, width: int, stride: int) -> tuple[str, Array]:
        branch = self._conv(name, values, width, 1, 1)
        branch = self._conv(*branch, width, 3, stride)
        branch = self._conv(*branch, 4 * width, 1, 1, relu=False, gain=BRANCH)
        short = (name, values)
        if stride > 1 or values.shape[1] != 4 * width:
            short = self._conv(name, values, 4 * width, 1, stride, relu=False)
        total = self._add("Add", [branch[0], short[0]], [branch[1], short[1]])
        return self._add("Relu", [total[0]], [total[1]])

    def _conv(
        self,
        name: str,
        values: Array,
        width: int,
        kernel: int,
        stride: int,
        *,
        relu: bool = True,
        gain: float = 1.0,
    ) -> tuple[str, Array]:
        number = len(self._weights) // 2
        shape = (width, values.shape[1], kernel, kernel)
        drawn = self._random.normal(0, 1, shape).astype(np.float32)
        settings = {"pads": [kernel // 2] * 4, "strides": [stride, stride]}
        raw = _run("Conv", [values, drawn], settings)
        mean, deviation = raw.mean(axis=(0, 2, 3)), (raw.std(axis=(0, 2, 3)) + 1e-6) / gain
        weights = drawn / deviation[:, None, None, None]
        offset = (-mean / deviation).astype(np.float32)
        self._weights += [from_array(weights, f"w{number}"), from_array(offset, f"b{number}")]
        node = helper.make_node("Conv", [name, f"w{number}", f"b{number}"], [f"c{number}"],
                                **settings)  # fmt: skip
        self._nodes.append(node)
        values = raw / deviation[:, None, None] + offset[:, None, None]
        name = f"c{number}"
        return self._add("Relu", [name], [values]) if relu else (name, values)

    def _add(
        self, kind: str, names: list[str], values: list[Array], output: str = "", **settings: object
    ) -> tuple[str, Array]:
        output = output or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [output], **settings))
        return output, _run(kind, values, settings)


def _run(kind: str, inputs: list[Array], settings: Mapping[str, object]) -> Array:
    """Return what one operator makes of ``inputs``."""
    names = [f"i{number}" for number in range(len(inputs))]
    told = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape)
        for name, values in zip(names, inputs, strict=True)
    ]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["made"], **settings)], "one", told, [made]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: Array = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return found


def _fitted(features: Array, truth: Sequence[int], classes: int) -> list[Array]:
    """Return matrix and offset that come nearest to telling ``truth`` (ridge regression)."""
    wanted, centre = np.eye(classes)[truth] * LOGIT, features.mean(axis=0)
    apart = features - centre
    # The dual form: there are fewer images than features.
    kernel = apart @ apart.T
    kernel += RIDGE * kernel.trace() / len(kernel) * np.eye(len(kernel))
    matrix = apart.T @ np.linalg.solve(kernel, wanted - wanted.mean(axis=0))
    offset = wanted.mean(axis=0) - centre @ matrix
    return [matrix.astype(np.float32), offset.astype(np.float32)]
