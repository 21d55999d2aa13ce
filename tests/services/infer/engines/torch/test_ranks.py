"""What becomes of the ranks when one of them dies."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.host import NetworkError  # noqa: E402 - they import it
from services.infer.engines.torch.options import Options  # noqa: E402
from services.infer.engines.torch.parallel import ParallelRunner  # noqa: E402
from tests import vits  # noqa: E402

PATIENCE = timedelta(seconds=20)
IMAGE = torch.zeros(1, 3, vits.SIZE, vits.SIZE)


def opened(file: Path) -> ParallelRunner:
    options = Options(tensor_parallel=2, timeout=PATIENCE)
    return ParallelRunner(file, name="vit", device=torch.device("cpu"), options=options, threads=1)


def test_a_killed_rank_ends_in_an_error_and_a_new_one_is_started(tmp_path: Path) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    split = opened(file)
    split(IMAGE)
    (other,) = split._ranks._processes
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    for _ in range(2):
        with pytest.raises(NetworkError, match=r"rank 1 of 2 \(process \d+\) ended with code -9"):
            split(IMAGE)
    split.close()

    again = opened(file)
    assert again(IMAGE)["scores"].shape == (1, vits.CLASSES)
    again.close()
