"""A rank's part of a network, and what all ranks do alike with it."""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from services.infer.engines.torch.options import Options
from services.infer.engines.torch.program import load_program, move
from services.infer.engines.torch.runner import Runner, Tensors
from services.infer.engines.torch.sharding import shard
from services.infer.engines.torch.splitting import Share, find_shares
from visionmesh.errors import Code, ConfigurationError


def meet(
    place: Path, *, rank: int, ranks: int, device: torch.device, patience: timedelta
) -> DeviceMesh:
    """Let this process be a rank among those that meet at the file ``place``; return all of them.

    A collective that waits for longer than ``patience`` ends in a `RuntimeError`.
    """
    if device.type == "cuda":
        # Its watchdog would end the process of who waits for a rank that is gone, before anybody
        # can say why; with 2 (CleanUpOnly) it only ends the waiting.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(str(place), ranks),
        rank=rank,
        world_size=ranks,
        timeout=patience,
    )
    return init_device_mesh(device.type, (ranks,))


class Part:
    """This rank's part of a network; every rank calls it with the same sizes in the same order."""

    def __init__(
        self,
        file: Path,
        *,
        name: str,
        mesh: DeviceMesh,
        device: torch.device,
        options: Options,
    ) -> None:
        """Load the part; raise `ConfigurationError` if the network cannot be shared out."""
        program = load_program(file, name=name, halves=options.halves)
        self.program = program
        found, refused = find_shares(program.network.graph, options.tensor_parallel)
        chosen = _chosen(found, refused, name=name, options=options)
        # "cuda" is the thread's own device to those who distribute weights.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            shard(program.network, chosen.values(), mesh)
            move(program.network, device)
        self.shared = tuple(chosen)
        """The row-wise layers that are shared out."""
        self._runner = Runner(program.network, device=device, options=options)
        self._empty = torch.empty((0, *program.shape), dtype=program.dtype, device=device)
        self._batches: dict[int, torch.Tensor] = {}

    def run(self, size: int, images: torch.Tensor | None = None) -> Tensors:
        """Return what the network says of a batch, which rank 0 has and the others lack.

        Raises
        ------
        RuntimeError
            If the network fails, or another rank is not there.
        """
        if size not in self._batches:
            self._batches[size] = self._empty.new_empty((size, *self._empty.shape[1:]))
        batch = self._batches[size]
        if images is not None:
            batch.copy_(images)
        dist.broadcast(batch, src=0)
        return self._runner(batch)


def _chosen(
    found: dict[str, Share], refused: dict[str, str], *, name: str, options: Options
) -> dict[str, Share]:
    """Return the shares that the plan names; raise `ConfigurationError` if one cannot be."""
    if not options.patterns:
        if not found:
            why = "; ".join(f"{layer}: {text}" for layer, text in refused.items())
            raise _unfit(name, f"nothing of it can be shared out among ranks ({why[:500]})")
        return found
    for pattern in options.patterns:
        matching = [layer for layer in (*found, *refused) if fnmatch(layer, pattern)]
        if not matching:
            raise _unfit(
                name,
                f"options.plan: no layer is named {pattern!r}; "
                f"those that can be shared out: {', '.join(found)[:500]}",
            )
        for layer in matching:
            if layer in refused:
                raise _unfit(name, f"options.plan: {layer} cannot be shared out: {refused[layer]}")
    return {
        layer: share
        for layer, share in found.items()
        if any(fnmatch(layer, pattern) for pattern in options.patterns)
    }


def _unfit(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(Code.MODEL_INVALID, f"Model {name!r}: {why}.")
