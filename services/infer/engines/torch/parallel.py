"""A network that several ranks compute together, as one that rank 0 calls."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch

from services.infer.engines.host import NetworkError
from services.infer.engines.torch.options import Options
from services.infer.engines.torch.parts import Part
from services.infer.engines.torch.ranks import Ranks
from services.infer.engines.torch.runner import Tensors
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import GpuMemoryError


class ParallelRunner:
    """Called like a `Runner`, from any thread; batches are computed one after the other."""

    def __init__(
        self, file: Path, *, name: str, device: torch.device, options: Options, threads: int
    ) -> None:
        """Load every rank's part; the first such network of a worker starts the ranks.

        Raises
        ------
        ConfigurationError
            (device_missing) if there are fewer devices than ranks; (model_invalid) if the network
            cannot be shared out, or a rank cannot be had.
        GpuMemoryError
            If a rank's device has too little free memory.
        """
        self._options = options
        self._ready: set[int] = set()
        """The batch sizes that have been run, so that nothing of them is compiled any more."""
        self._ranks = _WORKER.enter(_devices(device, options), threads, options.load_timeout)
        self._number = self._ranks.number()
        try:
            self.part = self._load(file, name, device)
        except BaseException:
            _WORKER.leave()
            raise

    def _load(self, file: Path, name: str, device: torch.device) -> Part:
        options = self._options
        try:
            return self._ranks.together(
                "load",
                self._number,
                str(file),
                name,
                options.model_dump(),
                own=lambda: Part(
                    file, name=name, mesh=self._ranks.mesh, device=device, options=options
                ),
                patience=options.load_timeout,
            )
        except NetworkError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                raise GpuMemoryError(str(error)) from error
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"Model {name!r} cannot be shared out among {len(self._ranks.devices)} ranks: "
                f"{str(error).rstrip('.')}.",
            ) from error

    def __call__(self, images: torch.Tensor) -> Tensors:
        """Return what the network says; raise `NetworkError` if it fails or a rank is gone."""
        size, options = len(images), self._options
        try:
            outputs = self._ranks.together(
                "run",
                self._number,
                size,
                own=lambda: self._own(images),
                patience=options.timeout if size in self._ready else options.load_timeout,
            )
        except NetworkError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError) and not self._ranks.lost:
                raise error.__cause__ from error  # smaller batches may do
            raise
        self._ready.add(size)
        return outputs

    def _own(self, images: torch.Tensor) -> Tensors:
        outputs = self.part.run(len(images), images)
        if images.is_cuda:
            # What a graph gives lies in memory that the next batch overwrites. And whether all
            # ranks were there to the end must be known before anybody believes the outputs.
            outputs = {name: value.clone() for name, value in outputs.items()}
            torch.cuda.current_stream().synchronize()
        return outputs

    def close(self) -> None:
        """Let go of all parts; the last network of a worker ends the ranks."""
        try:
            with suppress(NetworkError):  # ranks that are lost have let go of everything
                self._ranks.together("drop", self._number, own=self._drop)
        finally:
            _WORKER.leave()

    def _drop(self) -> None:
        # Captured collectives must be gone before the group that they are of.
        del self.part


def _devices(device: torch.device, options: Options) -> tuple[torch.device, ...]:
    """Return the devices of all ranks: that of rank 0 and those behind it."""
    ranks = options.tensor_parallel
    if device.type == "cpu":
        return (device,) * ranks
    there = torch.cuda.device_count()
    if device.index + ranks > there:
        raise ConfigurationError(
            Code.DEVICE_MISSING,
            f"tensor_parallel: {ranks} from GPU {device.index} on wants GPUs up to "
            f"{device.index + ranks - 1}, and this worker sees {there}.",
        )
    return tuple(torch.device("cuda", device.index + rank) for rank in range(ranks))


class _Worker:
    """The ranks of this process, of which PyTorch allows one set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranks: Ranks | None = None
        self._networks = 0

    def enter(self, devices: tuple[torch.device, ...], threads: int, patience: timedelta) -> Ranks:
        with self._lock:
            if self._ranks is None:
                try:
                    self._ranks = Ranks(devices, threads=threads, patience=patience)
                except NetworkError as error:
                    raise ConfigurationError(
                        Code.MODEL_INVALID, f"The ranks do not come together: {error}."
                    ) from error
            elif self._ranks.devices != devices:
                raise ConfigurationError(
                    Code.MODEL_INVALID,
                    f"This worker has ranks on {_list(self._ranks.devices)} for another network, "
                    f"so it cannot have others on {_list(devices)}: use the same.",
                )
            self._networks += 1
            return self._ranks

    def leave(self) -> None:
        with self._lock:
            self._networks -= 1
            if not self._networks and self._ranks is not None:
                ranks, self._ranks = self._ranks, None
                ranks.close()


def _list(devices: tuple[torch.device, ...]) -> str:
    return ", ".join(map(str, devices))


_WORKER = _Worker()
