"""PyTorch: exported programs on CPUs and GPUs, eagerly, compiled, as CUDA graphs, or over ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from services.infer.engines import Engine, PlanStore
from services.infer.engines.device import DeviceEngine, only_sizes
from services.infer.engines.host import HostEngine, Network, give_back_memory
from services.infer.engines.torch.network import DeviceNetwork, HostNetwork, Run
from services.infer.engines.torch.options import Options
from services.infer.engines.torch.parallel import ParallelRunner
from services.infer.engines.torch.program import Program, load_program, move
from services.infer.engines.torch.runner import Runner
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import open_gpu
from visionmesh.gpu.gpu import GpuMemoryError
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    precision: Precision,
    plans: PlanStore | None,
) -> tuple[Engine, ...]:
    """Return ``count`` engines that run the exported program in ``weights`` and share its weights.

    It computes in its own types, or as ``options`` of the instance say: see `Options`.

    Raises
    ------
    ConfigurationError
        (model_unsafe) if the program would run code; (model_invalid) if it cannot be loaded, does
        not fit ``spec``, or the options do not fit; (device_missing).
    GpuError
        If the device fails, `GpuMemoryError` if it has too little free memory.
    """
    options = Options.of(spec, instance)
    gpu = open_gpu(instance.device) if is_gpu(instance.device) else None
    device = torch.device("cpu")
    if gpu is not None and gpu.info.kind == "cuda":
        device = torch.device("cuda", gpu.info.index)
    program, run, close = _open(weights, spec, device, options, instance.threads)
    let_go = _LastOf(count, close)
    give_back_memory()
    sizes = only_sizes(program.batch, spec.batching.max_size)
    engines: list[Engine] = []
    try:
        for _ in range(count):
            if gpu is None:
                host = HostNetwork(run, batch=program.batch, threads=instance.threads)
                engines.append(_HostEngine(network=host, spec=spec, let_go=let_go))
            else:
                network = DeviceNetwork(_own(run), gpu=gpu, sizes=sizes, close=let_go)
                engines.append(DeviceEngine(gpu=gpu, network=network, spec=spec))
    except BaseException:
        for opened in engines:
            opened.close()
        close()  # the last of all would have done it
        raise
    return tuple(engines)


def _own(run: Run) -> Run:
    """Return what one engine of several runs: each has graphs of its own."""
    return run.another() if isinstance(run, Runner) else run


def _open(
    weights: Path, spec: ModelSpec, device: torch.device, options: Options, threads: int
) -> tuple[Program, Run, Callable[[], None]]:
    """Return a program, what runs it, and what lets it go."""
    if options.tensor_parallel > 1:
        parallel = ParallelRunner(
            weights, name=spec.name, device=device, options=options, threads=threads
        )
        try:
            _require_fit(parallel.part.program, spec)
        except ConfigurationError:
            parallel.close()
            raise
        return parallel.part.program, parallel, parallel.close
    program = load_program(weights, name=spec.name, halves=options.halves)
    _require_fit(program, spec)
    try:
        move(program.network, device)
    except torch.OutOfMemoryError as error:
        # What has been moved would be kept as long as the error, and then for PyTorch alone.
        program.network.to("meta")
        torch.cuda.empty_cache()
        raise GpuMemoryError(str(error)) from error
    return program, Runner(program.network, device=device, options=options), _nothing


def _nothing() -> None:
    """Do nothing: memory goes with the last reference."""


def _require_fit(program: Program, spec: ModelSpec) -> None:
    sizes = {"C": spec.input.channels, "H": spec.input.height, "W": spec.input.width}
    wanted = tuple(sizes[axis] for axis in spec.input.layout[1:])
    dtype = str(program.dtype).removeprefix("torch.")
    if (program.shape, dtype) != (wanted, spec.input.dtype):
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"The program of model {spec.name!r} takes images of {dtype} {program.shape}, where "
            f"model.yaml says {spec.input.dtype} {wanted}; import it again.",
        )


class _HostEngine(HostEngine):
    """One that lets go of what it shares with others."""

    def __init__(self, *, network: Network, spec: ModelSpec, let_go: Callable[[], None]) -> None:
        super().__init__(network=network, spec=spec)
        self._let_go = let_go

    def close(self) -> None:
        super().close()
        self._let_go()


class _LastOf:
    """Called once by each of several, it does something when the last of them calls."""

    def __init__(self, users: int, last: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._left = users
        self._last = last

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            left = self._left
        if not left:
            self._last()
