"""A rank other than 0: a process that does what rank 0 tells it, and ends with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from services.infer.engines.torch.options import Options
from services.infer.engines.torch.parts import Part, meet
from services.infer.engines.torch.program import FAILURES
from visionmesh.errors import ConfigurationError

Complaint = str | RuntimeError
"""What a rank answers to an order: nothing, what went wrong, or a `torch.OutOfMemoryError`."""


def serve(orders: Connection, rank: int, ranks: int, device: str, threads: int) -> None:
    """Follow orders until there are no more, and answer each; what a child process runs.

    Signals go to rank 0, which ends its ranks when it has finished.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    torch.set_num_threads(threads)
    self = _Rank(rank, ranks, torch.device(device))
    try:
        orders.send("")  # PyTorch is imported, which takes the longest
        while True:
            order, *values = orders.recv()
            if order == "end":
                return
            orders.send(self.follow(order, values))
    except (EOFError, OSError):
        return  # rank 0 is gone
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_parent() -> None:
    """End this process with rank 0's, also where it waits on a GPU for what nobody will send."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a rank is a child process"
    wait([parent.sentinel])
    os._exit(1)


class _Rank:
    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        self._rank, self._ranks, self._device = rank, ranks, device
        self._mesh: DeviceMesh | None = None
        self._parts: dict[int, Part] = {}

    def follow(self, order: str, values: list[Any]) -> Complaint:
        """Do as told; return what went wrong, if anything did."""
        try:
            getattr(self, order)(*values)
        except torch.OutOfMemoryError as error:
            lack: Complaint = torch.OutOfMemoryError(str(error))
            return lack
        except ConfigurationError as error:
            return error.message
        except (*FAILURES, OSError) as error:
            return str(error) or repr(error)
        return ""

    def meet(self, place: str, patience: Any) -> None:
        self._mesh = meet(
            Path(place),
            rank=self._rank,
            ranks=self._ranks,
            device=self._device,
            patience=patience,
        )

    def load(self, number: int, file: str, name: str, options: dict[str, Any]) -> None:
        assert self._mesh is not None, "ranks meet first"
        self._parts[number] = Part(
            Path(file),
            name=name,
            mesh=self._mesh,
            device=self._device,
            options=Options.model_validate(options),
        )

    def run(self, number: int, size: int) -> None:
        self._parts[number].run(size)

    def drop(self, number: int) -> None:
        self._parts.pop(number, None)
