"""TensorRT: plans that are built of ONNX files for one kind of device, once for all nodes alike."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.infer.engines import Engine, PlanStore
from services.infer.engines.device import DeviceEngine, powers
from services.infer.engines.host import NetworkError, give_back_memory
from services.infer.engines.tensorrt.building import build_plan
from services.infer.engines.tensorrt.job import Job
from services.infer.engines.tensorrt.key import plan_key
from services.infer.engines.tensorrt.network import Plan, TensorRTNetwork, load_plan
from services.infer.engines.tensorrt.options import Options
from services.infer.engines.tensorrt.runtime import load_runtime
from services.infer.plans import FolderPlans
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import Gpu, GpuError, open_gpu
from visionmesh.gpu.gpu import GpuLostError, GpuMemoryError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

log = logging.getLogger(__name__)


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    precision: Precision,
    plans: PlanStore | None,
) -> tuple[Engine, ...]:
    """Return ``count`` engines on the instance's GPU that share the weights.

    What is computed in which precision is said by the network. A plan that nobody has built yet is
    built first, which takes minutes; see `Options` for what ``options`` of the instance say.

    Raises
    ------
    ConfigurationError
        (model_invalid) with TensorRT's reasons if it cannot read, build or load the network;
        (device_missing).
    GpuError
        If the device fails, `GpuMemoryError` if it has too little free memory.
    """
    options = Options.of(spec, instance)
    trt = load_runtime(options.runtime)
    gpu = open_gpu(instance.device)
    with _store(plans) as store, gpu.stream():
        plan = _plan(trt, gpu, weights, spec, options, device=instance.device, store=store)
    _require_fit(plan, spec)
    engines: list[Engine] = []
    try:
        for _ in range(count):
            network = TensorRTNetwork(plan=plan, gpu=gpu, graphs=options.graphs)
            engines.append(DeviceEngine(gpu=gpu, network=network, spec=spec))
    except BaseException:
        for opened in engines:
            opened.close()
        raise
    give_back_memory()
    return tuple(engines)


@contextmanager
def _store(plans: PlanStore | None) -> Iterator[PlanStore]:
    if plans is not None:
        yield plans
        return
    with tempfile.TemporaryDirectory(prefix="visionmesh-plans-") as folder:
        yield FolderPlans(Path(folder))


def _plan(
    trt: Any,
    gpu: Gpu,
    weights: Path,
    spec: ModelSpec,
    options: Options,
    *,
    device: str,
    store: PlanStore,
) -> Plan:
    """Return the plan that is in the store, or a new one, which is stored then."""
    sizes = powers(spec.batching.max_size)
    shape = shape_of(spec)
    key = plan_key(
        trt,
        gpu.info,
        network=file_sha256(weights),
        shape=shape,
        sizes=sizes,
        options=options.build,
    )
    with store.alone(str(key)):
        if (stored := store.get(str(key))) is not None:
            try:
                return _loaded(trt, stored, spec, sizes)
            except (GpuMemoryError, GpuLostError):
                raise
            except (GpuError, OSError) as error:  # the latter: it was forgotten just now
                log.warning("model %s: its plan is built again: %s", spec.name, error)
        with tempfile.TemporaryDirectory(prefix="building-", dir=store.folder) as scratch:
            job = Job(
                weights=weights.absolute(),
                plan=(Path(scratch) / "plan").absolute(),
                timings=(store.folder / f"{key.timings}.timings").absolute(),
                device=device,
                shape=shape,
                sizes=sizes,
                options=options.build,
            )
            build_plan(job, model=spec.name, timeout=options.timeout, plans=store)
            store.put(str(key), job.plan, instead_of=stored)
            return _loaded(trt, job.plan, spec, sizes)


def shape_of(spec: ModelSpec) -> tuple[int, ...]:
    """Return the shape of one image in the network's layout."""
    sides = {"C": spec.input.channels, "H": spec.input.height, "W": spec.input.width}
    return tuple(sides[axis] for axis in spec.input.layout[1:])


def _loaded(trt: Any, file: Path, spec: ModelSpec, sizes: tuple[int, ...]) -> Plan:
    try:
        return load_plan(trt, file, sizes=sizes)
    except NetworkError as error:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"TensorRT cannot run model {spec.name!r}: {error}."
        ) from error


def _require_fit(plan: Plan, spec: ModelSpec) -> None:
    wanted = shape_of(spec)
    fits = len(plan.shape) == len(wanted) + 1 and all(
        side in (-1, other) for side, other in zip(plan.shape[1:], wanted, strict=True)
    )
    if not fits or plan.dtype != spec.input.dtype:
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"The network of model {spec.name!r} takes images of {plan.dtype} {plan.shape[1:]}, "
            f"where model.yaml says {spec.input.dtype} {wanted}.",
        )
