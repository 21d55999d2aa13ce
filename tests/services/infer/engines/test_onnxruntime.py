from __future__ import annotations

from pathlib import Path

import pytest

from services.infer.engines import open_engines
from tests.networks import describe, save_network
from visionmesh.errors import ConfigurationError
from visionmesh.models.spec import Instance
from visionmesh.models.variants import Precision


def test_a_precision_that_it_does_not_compute_is_refused(tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx")
    with pytest.raises(ConfigurationError, match="cannot run model 'trees' in bf16"):
        open_engines(file, describe(), Instance(), count=1, precision=Precision.BF16)
