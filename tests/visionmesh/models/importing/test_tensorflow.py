"""SavedModels and TensorFlow Lite files become ONNX, or the message names the extra."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.importing import Wishes, import_model
from visionmesh.models.spec import Task

INSTALLED = all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx"))

# TensorFlow warns of itself, and nothing of it is to stay in this process.
MAKE = """
import sys
import numpy as np
import tensorflow as tf
tf.keras.utils.set_random_seed(0)
net = tf.keras.Sequential([
    tf.keras.layers.Input((12, 16, 3)),
    tf.keras.layers.Rescaling(1 / 255.0),
    tf.keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
    tf.keras.layers.GlobalAveragePooling2D(),
    tf.keras.layers.Dense(5, activation="softmax"),
])
net.export("saved")
converter = tf.lite.TFLiteConverter.from_saved_model("saved")
open("net.tflite", "wb").write(converter.convert())
images = np.random.default_rng(0).uniform(0, 255, (3, 12, 16, 3)).astype(np.float32)
np.savez("truth.npz", images=images, answer=net(images).numpy())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network in both forms, and what it says."""
    if not INSTALLED:
        pytest.skip("converting needs the extra `tensorflow`")
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["saved", "net.tflite"])
def test_a_network_of_tensorflow_says_the_same_as_onnx(
    trained: Path, tmp_path: Path, name: str
) -> None:
    wishes = Wishes(name="trees", task=Task.CLASSIFICATION)
    done = import_model(str(trained / name), wishes, models=tmp_path)
    assert (done.spec.input.layout, done.batch) == ("NHWC", None)
    assert (done.spec.input.width, done.spec.input.height) == (16, 12)
    assert done.spec.output.parameters == {"activation": "none"}
    session = onnxruntime.InferenceSession(done.folder / "1" / "model.onnx")
    truth = np.load(trained / "truth.npz")
    (answer,) = session.run(None, {session.get_inputs()[0].name: truth["images"]})
    np.testing.assert_allclose(answer, truth["answer"], atol=1e-5)


@pytest.mark.skipif(not INSTALLED, reason="converting needs the extra `tensorflow`")
def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"TFL3" * 10)
    with pytest.raises(ConfigurationError, match="cannot be converted: "):
        import_model(str(tmp_path / "net.tflite"), Wishes(name="trees"), models=tmp_path / "m")


@pytest.mark.skipif(INSTALLED, reason="the extra `tensorflow` is here")
@pytest.mark.parametrize("name", ["saved", "net.tflite"])
def test_a_missing_extra_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "net.tflite").touch()
    with pytest.raises(ConfigurationError, match=r"visionmesh\[tensorflow\]") as raised:
        import_model(str(tmp_path / name), Wishes(name="trees"), models=tmp_path / "m")
    assert raised.value.code is Code.SETTINGS_INVALID
