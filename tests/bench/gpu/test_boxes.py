"""The benchmark of boxes on a GPU runs wherever a device is, and finds what the CPU finds."""

from __future__ import annotations

import pytest

from bench.gpu.boxes import measure
from visionmesh.gpu import Gpu


@pytest.mark.parametrize("case", ["photo", "crowd", "noise"])
def test_a_batch_is_timed(gpu: Gpu, case: str) -> None:
    row = measure(gpu, case, 2, repeats=1, bandwidth=1e12)
    assert row.floor == pytest.approx(1e3 * 2 * 84 * 8400 * 2 / 1e12)
    assert min(row.cpu, row.device, row.whole) > row.floor
    assert (row.candidates == 1000) == (case != "photo")
