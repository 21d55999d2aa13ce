"""Builds a plan, in a process of its own: ``python -m services.infer.engines.tensorrt.build``.

It takes a `Job` on its standard input and answers there with lines of `Message`. Builders take
gigabytes of both memories, minutes, and now and then the process with them; all of that ends with
it, and so does the build on SIGTERM.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from services.infer.engines.tensorrt.job import Built, Failed, Job, Progress
from services.infer.engines.tensorrt.progress import Phases, monitor
from services.infer.engines.tensorrt.runtime import (
    aim,
    failure,
    listener,
    load_runtime,
    made,
    network_flags,
    one_line,
)
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import GpuError, open_gpu
from visionmesh.gpu.gpu import GpuMemoryError

_TOLD_ERRORS = 5
"""Of a network with many operators that TensorRT does not know."""

Tell = Callable[[Progress | Failed | Built], None]


def build(job: Job, tell: Tell) -> None:
    """Write the plan that ``job`` asks for.

    Raises
    ------
    ConfigurationError
        (model_invalid) if TensorRT cannot parse the network, with the nodes at fault.
    GpuError
        If it cannot build it.
    """
    trt = load_runtime(job.options.runtime)
    began = time.monotonic()
    # The builder works on the thread's current device.
    with open_gpu(job.device).stream() if job.capability is None else nullcontext():
        builder = made(trt, trt.Builder)
        network = builder.create_network(network_flags(trt))
        _parse(trt, network, job.weights)
        config = _configured(trt, builder, network, job)
        phases = Phases(lambda share, phase: tell(Progress(share=share, phase=phase)))
        config.progress_monitor = monitor(trt, phases)
        cache = _timing_cache(config, job.timings)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise failure(trt, "its builder fails")
        _write(job.plan, plan)
        if job.timings is not None:
            _write(job.timings, cache.serialize())
    tell(Built(nbytes=plan.nbytes, seconds=time.monotonic() - began))


def _parse(trt: Any, network: Any, weights: Path) -> None:
    parser = trt.OnnxParser(network, listener(trt))
    if parser.parse_from_file(str(weights)):
        return
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = "; ".join(dict.fromkeys(map(_described, faults[:_TOLD_ERRORS])))
    rest = f"; and {len(faults) - _TOLD_ERRORS} more" if len(faults) > _TOLD_ERRORS else ""
    listener(trt).heard()  # they are told better by the parser's own list
    raise ConfigurationError(
        Code.MODEL_INVALID, f"TensorRT cannot read the network: {shown or 'no reason given'}{rest}"
    )


def _described(fault: Any) -> str:
    """Return the parser's error with the node that it is about."""
    name, operator = fault.node_name(), fault.node_operator()
    where = f"{fault.func()} of the parser"
    if name or operator:
        where = f"node {name or fault.node()!r} ({operator})"
    return f"{where}: {one_line(fault.desc())}"


def _configured(trt: Any, builder: Any, network: Any, job: Job) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(job.options.workspace))
    config.builder_optimization_level = job.options.level
    if not job.options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if job.capability is not None:
        aim(trt, config, job.capability)
    if network.num_inputs != 1:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"The network takes {network.num_inputs} inputs; it must be one."
        )
    given = network.get_input(0)
    if any(side < 0 for side in given.shape):
        for smallest, most in _ranges(job, given.shape[0]):
            profile = builder.create_optimization_profile()
            shapes = [(size, *job.shape) for size in (smallest, most, most)]
            profile.set_shape(given.name, *shapes)
            config.add_optimization_profile(profile)
    return config


def _ranges(job: Job, batch: int) -> list[tuple[int, int]]:
    """Return the smallest and the largest batch of each profile."""
    if batch > 0:
        return [(batch, batch)]
    if job.options.profiles == "one":
        return [(job.sizes[0], job.sizes[-1])]
    return [(size, size) for size in job.sizes]


def _timing_cache(config: Any, file: Path | None) -> Any:
    """Attach what was measured of kernels before, if it is of this release and device."""
    known = file.read_bytes() if file is not None and file.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write(file: Path, content: Any) -> None:
    """Write at once and whole: others may read it, or write the same."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(memoryview(content))
    partial.replace(file)


def main() -> None:
    """Build what the standard input asks for."""
    # Libraries print to the standard output, which is for messages only.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(message: Progress | Failed | Built) -> None:
        channel.write(message.model_dump_json() + "\n")
        channel.flush()

    job = Job.model_validate_json(sys.stdin.buffer.read())
    try:
        build(job, tell)
    except ConfigurationError as error:
        tell(Failed(reason=error.message))
    except GpuError as error:
        tell(Failed(reason=str(error), memory=isinstance(error, GpuMemoryError)))


if __name__ == "__main__":
    main()
