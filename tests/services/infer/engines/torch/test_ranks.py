"""What becomes of the ranks when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.host import NetworkError  # noqa: E402 - they import it
from services.infer.engines.torch.options import Options  # noqa: E402
from services.infer.engines.torch.parallel import ParallelRunner  # noqa: E402
from tests import vits  # noqa: E402

PATIENCE = timedelta(seconds=20)
IMAGE = torch.zeros(1, 3, vits.SIZE, vits.SIZE)

WORKER = """
import os, time
from pathlib import Path
from tests.services.infer.engines.torch.test_ranks import opened
class Endless:
    def __reduce__(self):
        return time.sleep, (600,)
if __name__ == "__main__":
    split = opened(Path(os.environ["RANKS_FILE"]))
    if "RANKS_STUCK" in os.environ:
        split._ranks._orders[0].send(Endless())
    print(split._ranks._processes[0].pid, flush=True)
    if "RANKS_STAY" in os.environ:
        time.sleep(600)
"""
"""A process that opens a network on two ranks, tells the other one, and ends or is there; the other
one may get an order that takes for ever."""


def opened(file: Path, *, patience: timedelta = PATIENCE) -> ParallelRunner:
    options = Options(tensor_parallel=2, timeout=patience)
    return ParallelRunner(file, name="vit", device=torch.device("cpu"), options=options, threads=1)


def test_a_killed_rank_ends_in_an_error_and_a_new_one_is_started(tmp_path: Path) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    split = opened(file)
    split(IMAGE)
    (other,) = split._ranks._processes
    os.kill(other.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(NetworkError, match=r"rank 1 of 2 \(process \d+\) ended with code -9"):
            split(IMAGE)
    split.close()

    again = opened(file)
    assert again(IMAGE)["scores"].shape == (1, vits.CLASSES)
    again.close()


def test_a_rank_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    split = opened(file, patience=timedelta(seconds=3))
    split(IMAGE)
    (other,) = split._ranks._processes
    os.kill(other.pid, signal.SIGSTOP)
    with pytest.raises(NetworkError, match="rank 1 of 2 has not answered for 0:00:03"):
        split(IMAGE)
    split.close()
    assert not psutil.pid_exists(other.pid)


def test_after_a_fault_of_its_own_rank_0_takes_no_answer_for_another(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("fault")

    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    split = opened(file)
    (other,) = split._ranks._processes
    with pytest.raises(KeyError):
        split._ranks.together("drop", 99, own=fail)
    with pytest.raises(NetworkError, match=r"KeyError\('fault'\)"):
        split(IMAGE)
    split.close()
    assert not psutil.pid_exists(other.pid)


def test_a_rank_that_dies_when_a_network_is_closed_keeps_nothing_open(tmp_path: Path) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    split = opened(file)
    ranks = split._ranks
    (other,) = ranks._processes
    ranks._ending = True  # so that nobody notices before the order is given
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert not ranks.lost
    split.close()
    assert not ranks._folder.exists()


def worker_of(file: Path, **environment: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "RANKS_FILE": str(file), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stuck", [False, True])
def test_ranks_end_with_their_worker(tmp_path: Path, stuck: bool) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    with worker_of(file, RANKS_STAY="", **({"RANKS_STUCK": ""} if stuck else {})) as worker:
        assert worker.stdout is not None
        rank = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    try:
        rank.wait(PATIENCE.total_seconds())
    finally:
        if rank.is_running():
            rank.kill()


def test_a_worker_that_ends_without_closing_is_not_held_up_by_its_ranks(tmp_path: Path) -> None:
    file = vits.save_program(vits.Vit(), tmp_path / "vit.pt2")
    with worker_of(file) as worker:
        assert worker.stdout is not None
        rank = psutil.Process(int(worker.stdout.readline()))
        try:
            worker.wait(PATIENCE.total_seconds())
        finally:
            worker.kill()
    rank.wait(PATIENCE.total_seconds())
