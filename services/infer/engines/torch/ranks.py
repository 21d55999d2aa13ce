"""Rank 0's side of tensor parallelism: it starts the other ranks, tells them what to do, ends them.

PyTorch has one process group per process, so all networks of a worker share one set of ranks, and
what they do is in one order, the same on every rank.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from services.infer.engines.host import NetworkError
from services.infer.engines.torch.parts import meet
from services.infer.engines.torch.program import FAILURES
from services.infer.engines.torch.rank import Complaint, serve
from visionmesh.errors import ConfigurationError

_TO_START = timedelta(minutes=2)
"""For a process to import PyTorch, also from a cold disk."""
_TO_END = timedelta(seconds=10)
"""For a rank to end by itself; then it is killed."""
_TO_FAIL = timedelta(seconds=10)
"""For the other ranks to fail, too, once one has: from then on they may wait for it in vain."""

T = TypeVar("T")


class Ranks:
    """One process for each of several devices; this one is rank 0, on the first of them.

    Its methods may be called from any thread.
    """

    def __init__(
        self, devices: Sequence[torch.device], *, threads: int, patience: timedelta
    ) -> None:
        """Start the other ranks and meet them; raise `NetworkError` if one does not come.

        A collective that waits for longer than ``patience`` fails.
        """
        self.devices = tuple(devices)
        self.lost = ""
        """Why the ranks cannot go on, if they cannot."""
        self._alone = threading.Lock()
        self._reaping = threading.Lock()
        self._ending = False
        self._numbers = count()
        self._done, self._doing = multiprocessing.Pipe(duplex=False)
        """By which this rank answers, like the others."""
        self._orders: list[Connection] = []
        self._processes: list[Any] = []
        # Before multiprocessing's own hook, which asks them to end, and they do not, and waits.
        atexit.register(self._kill)
        try:
            self._start(threads)
            # Memory that all open by its path. PyTorch writes there once more when the last of what
            # these ranks loaded is collected, whenever that is: so that it is no other file's path
            # by then, this one is never closed.
            place = Path(f"/proc/{os.getpid()}/fd/{os.memfd_create('visionmesh-ranks')}")
            self.together(own=lambda: None)
            self.mesh = self.together(
                "meet", str(place), patience, own=lambda: self._meet(place, patience)
            )
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def _start(self, threads: int) -> None:
        spawning = multiprocessing.get_context("spawn")
        for rank, device in enumerate(self.devices[1:], start=1):
            ours, theirs = spawning.Pipe()
            process = spawning.Process(
                target=serve,
                args=(theirs, rank, len(self.devices), str(device), threads),
                name=f"rank {rank}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._orders.append(ours)
            self._processes.append(process)

    def _meet(self, place: Path, patience: timedelta) -> Any:
        return meet(
            place, rank=0, ranks=len(self.devices), device=self.devices[0], patience=patience
        )

    def number(self) -> int:
        """Return a number that no network has had."""
        return next(self._numbers)

    def together(self, *order: Any, own: Callable[[], T], patience: timedelta = _TO_START) -> T:
        """Let all other ranks follow an order while this one does ``own``; return what that does.

        Without an order they only answer that they are there.

        Raises
        ------
        NetworkError
            If the ranks cannot do it, or one has ended or says nothing for ``patience``.
            Its cause is a `torch.OutOfMemoryError` if a device has too little memory for it.
        """
        with self._alone:
            if self.lost:
                raise NetworkError(self.lost)
            for orders in self._orders if order else ():
                with suppress(OSError):  # of one that has ended, which is told below
                    orders.send(order)
            answers: dict[int, Complaint] = {}
            listening = threading.Thread(target=self._listen, args=(answers, patience), daemon=True)
            listening.start()
            failure: Exception | None = None
            try:
                done = own()
            except (*FAILURES, OSError, ConfigurationError) as error:
                failure = error
            except BaseException as error:
                self._lose(repr(error))  # what they answer to this would be taken for the next
                raise
            finally:
                self._doing.send(_text(failure) if failure is not None else self.lost)
                listening.join()
            self._require_same(failure, answers)
            if failure is not None:
                raise NetworkError(_text(failure)) from failure
            return done

    def _listen(self, answers: dict[int, Complaint], patience: timedelta) -> None:
        """Collect what the ranks complain of, by their numbers; end those that do not answer."""
        waiting = dict(enumerate((self._done, *self._orders)))
        until = time.monotonic() + patience.total_seconds()
        while waiting:
            ready = wait(waiting.values(), max(0, until - time.monotonic()))
            if not ready:
                return self._give_up(answers, waiting, patience)
            for rank in [rank for rank, orders in waiting.items() if orders in ready]:
                try:
                    answers[rank] = waiting.pop(rank).recv()
                except (EOFError, OSError):
                    self._note_end(rank)
            if self.lost or any(answers.values()):
                until = min(until, time.monotonic() + _TO_FAIL.total_seconds())

    def _give_up(
        self, answers: dict[int, Complaint], waiting: Iterable[int], patience: timedelta
    ) -> None:
        """End the ranks that this one waits for: that ends its waiting, too, as `_watch` says."""
        others = [rank for rank in waiting if rank]  # this one may only wait for them
        who = " and ".join(map(str, others)) or "0"
        silent = f"rank {who} of {len(self.devices)} has not answered for {patience}"
        self._lose(_complaints(answers) or silent)
        for process in self._processes:
            process.kill()

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why

    def _require_same(self, failure: Exception | None, answers: dict[int, Complaint]) -> None:
        """If some ranks failed and others did not, they are not at the same place any more."""
        if len(set(map(bool, answers.values()))) > 1:
            self._lose(_complaints(answers))
        if self.lost:
            lacks = (one for one in answers.values() if isinstance(one, torch.OutOfMemoryError))
            raise NetworkError(self.lost) from next(lacks, failure)

    def _watch(self) -> None:
        """Note the end of a rank, and free who waits for it on a GPU; gloo notices by itself."""
        ended = wait([process.sentinel for process in self._processes])
        if self._ending:
            return
        for rank, process in enumerate(self._processes, start=1):
            if process.sentinel in ended:
                self._note_end(rank)
        if self.devices[0].type == "cuda":
            dist.group.WORLD.abort()

    def _note_end(self, rank: int) -> None:
        process = self._processes[rank - 1]
        with self._reaping:  # only who is first learns the code, and then notes it for all
            process.join(_TO_END.total_seconds())
            how = f"(process {process.pid}) ended with code {process.exitcode}"
        self._lose(f"rank {rank} of {len(self.devices)} {how}")

    def _kill(self) -> None:
        """End all other ranks where the worker ends without having closed them."""
        self._ending = True
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End all other ranks."""
        self._ending = True
        atexit.unregister(self._kill)
        for orders in self._orders:
            with suppress(OSError):
                orders.send(("end",))
            orders.close()
        if dist.is_initialized():
            if self.lost and self.devices[0].type == "cuda":
                dist.group.WORLD.abort()  # who is gone takes no part in an orderly end
            dist.destroy_process_group()
        with self._reaping:
            for process in self._processes:
                process.join(0 if self.lost else _TO_END.total_seconds())
                if process.is_alive():
                    process.kill()
                    process.join()
        self._done.close()
        self._doing.close()


def _complaints(answers: dict[int, Complaint]) -> str:
    return "; ".join(f"rank {rank}: {text}" for rank, text in sorted(answers.items()) if text)


def _text(error: Exception) -> str:
    return error.message if isinstance(error, ConfigurationError) else str(error) or repr(error)
