from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.infer.engines import open_engines
from tests.networks import expected, save_network
from tests.services.infer.engines.samples import images_of, planar, spec_of
from visionmesh.cpu import computes_bf16, cpu_features
from visionmesh.models.spec import Instance
from visionmesh.models.variants import Precision


@pytest.mark.skipif(not computes_bf16(cpu_features()), reason="this CPU has no bfloat16")
def test_in_bf16_scores_are_near_but_rounded(tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx", seed=3)
    images = images_of(4)
    (exact,) = open_engines(file, spec_of(), Instance(), count=1, engine="openvino")
    (rounded,) = open_engines(
        file, spec_of(), Instance(), count=1, engine="openvino", precision=Precision.BF16
    )

    scores, right = rounded.run(images)["scores"], expected(planar(images), 3)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, right, atol=0.02 * np.abs(right).max())
    assert not np.allclose(scores, exact.run(images)["scores"], rtol=1e-5)


def test_a_reason_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(Exception, match="OpenVINO cannot load model 'trees': Unable") as raised:
        open_engines(file, spec_of(), Instance(), count=1, engine="openvino")
    assert "\n" not in str(raised.value)


def test_nobody_is_told_that_it_is_used(tmp_path: Path) -> None:
    script = (
        "import sys, services.infer.engines.openvino as ours\n"
        "assert ours.openvino.Core().available_devices == ['CPU']\n"
        "print([name for name in sys.modules if 'telemetry.' in name and 'openvino_' in name])"
    )
    # Where it thinks that it is tested the package says nothing anyway.
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
