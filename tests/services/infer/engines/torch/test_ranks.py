"""What becomes of the ranks when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.host import NetworkError  # noqa: E402 - they import it
from services.infer.engines.torch import ranks  # noqa: E402
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
    if "RANKS_STUCK" in os.environ:
        time.sleep(600)
"""
"""A process that opens a network on two ranks, tells the other one, and ends; or stays, and the
other one has an order that takes for ever."""


def opened(file: Path, *, patience: timedelta = PATIENCE) -> ParallelRunner:
    options = Options(tensor_parallel=2, timeout=patience)
    return ParallelRunner(file, name="vit", device=torch.device("cpu"), options=options, threads=1)


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        (signal.SIGKILL, r"rank 1 of 2 \(process \d+\) ended with code -9"),
        (signal.SIGSTOP, "rank 1 of 2 has not answered for 0:00:03"),
    ],
    ids=["killed", "stopped"],
)
def test_a_rank_that_does_not_answer_ends_in_an_error_and_is_followed_by_another(
    vit: Path, fate: signal.Signals, reason: str
) -> None:
    split = opened(vit, patience=timedelta(seconds=3))
    assert split(IMAGE)["scores"].shape == (1, vits.CLASSES)
    (other,) = split._ranks._processes
    os.kill(other.pid, fate)
    for _ in range(2):
        with pytest.raises(NetworkError, match=reason):
            split(IMAGE)
    split.close()
    assert not psutil.pid_exists(other.pid)


def stores() -> int:
    """Return how many files for ranks to meet at this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return sum("visionmesh-ranks" in os.path.realpath(link) for link in links)


def test_what_pytorch_writes_after_ranks_have_left_is_written_to_no_other_file(vit: Path) -> None:
    before = stores()
    split = opened(vit)
    assert stores() == before + 1
    split.close()
    assert stores() == before + 1


def test_after_a_fault_of_its_own_rank_0_takes_no_answer_for_another(vit: Path) -> None:
    def fail() -> None:
        raise KeyError("fault")

    split = opened(vit)
    (other,) = split._ranks._processes
    with pytest.raises(KeyError):
        split._ranks.together("drop", 99, own=fail)
    with pytest.raises(NetworkError, match=r"KeyError\('fault'\)"):
        split(IMAGE)
    split.close()
    assert not psutil.pid_exists(other.pid)


def test_a_rank_that_dies_when_a_network_is_closed_keeps_nothing_open(vit: Path) -> None:
    split = opened(vit)
    (other,) = split._ranks._processes
    split._ranks._ending = True  # so that nobody notices before the order is given
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert not split._ranks.lost
    split.close()
    assert not psutil.pid_exists(other.pid)


@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_rank_fails_alone_the_others_do_not_wait_for_it_until_the_end(
    vit: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    def lack() -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(ranks, "_TO_FAIL", timedelta(seconds=1))
    split = opened(vit)
    order: tuple[Any, ...] = ("run", split._number, 1)
    own: Callable[[], Any] = lack
    if failing:
        order, own = ("load", 99, "nowhere", "vit", {}), lambda: split.part.run(1, IMAGE)
    began = time.monotonic()
    try:
        with pytest.raises(NetworkError, match="rank 1: .*nowhere" if failing else "rank 0: full"):
            split._ranks.together(*order, own=own, patience=10 * PATIENCE)
    finally:
        split.close()
    assert time.monotonic() - began < PATIENCE.total_seconds()


def worker_of(file: Path, **environment: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "RANKS_FILE": str(file), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_ranks_end_with_their_worker_also_in_the_midst_of_an_order(
    vit: Path, tmp_path: Path
) -> None:
    with worker_of(vit, RANKS_STUCK="", TMPDIR=str(tmp_path)) as worker:
        assert worker.stdout is not None
        rank = psutil.Process(int(worker.stdout.readline()))
        worker.kill()
    try:
        rank.wait(PATIENCE.total_seconds())
    finally:
        if rank.is_running():
            rank.kill()
    assert not any(tmp_path.glob("visionmesh*"))


def test_a_worker_that_ends_without_closing_is_not_held_up_by_its_ranks(vit: Path) -> None:
    with worker_of(vit) as worker:
        assert worker.stdout is not None
        rank = psutil.Process(int(worker.stdout.readline()))
        try:
            worker.wait(PATIENCE.total_seconds())
        finally:
            worker.kill()
    rank.wait(PATIENCE.total_seconds())
