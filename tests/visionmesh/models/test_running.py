"""What tools on this machine run of a model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.networks import describe
from visionmesh.models.record import VersionRecord
from visionmesh.models.running import running_here


@pytest.mark.parametrize(
    ("instances", "device"),
    [
        ([{"device": "cuda:77"}], "cpu"),
        ([{"device": "cuda:77"}, {"device": "emulated"}], "emulated"),
        ([{"device": "cpu", "fallback": True}, {"device": "emulated"}], "emulated"),
    ],
)
def test_a_model_is_tried_out_where_it_can_be(instances: list[Any], device: str) -> None:
    spec = describe(instances=instances)
    version = VersionRecord(
        sha256="f",
        size_bytes=1,
        pushed_at=datetime.now(UTC),
        input=spec.input,
        output=spec.output,
        batch=None,
        outputs=(),
    )
    here = running_here(spec, version)
    assert (here.running.instance.device, here.running.engine) == (device, "onnxruntime")
