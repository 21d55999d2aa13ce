"""TensorRT: plans that are built of ONNX files for one kind of device, once for all nodes alike."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
from visionmesh.gpu import GpuError, open_gpu
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
    wanted = _Wanted(weights, spec, instance)
    with _store(plans) as store, wanted.gpu.stream():
        plan = _plan(wanted, store)
    _require_fit(plan, spec)
    engines: list[Engine] = []
    try:
        for _ in range(count):
            network = TensorRTNetwork(plan=plan, gpu=wanted.gpu, graphs=wanted.options.graphs)
            engines.append(DeviceEngine(gpu=wanted.gpu, network=network, spec=spec))
    except BaseException:
        for opened in engines:
            opened.close()
        raise
    give_back_memory()
    return tuple(engines)


def build(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    plans: PlanStore,
    told: Callable[[str], None],
) -> None:
    """Have the plan built that `open_engines` loads, unless it is there; raise as that does.

    ``told`` is called with how far that is.
    """
    wanted = _Wanted(weights, spec, instance)
    with plans.alone(wanted.key):
        if plans.get(wanted.key) is None:
            with _built(wanted, plans, told=told):
                pass  # it is stored


@contextmanager
def _store(plans: PlanStore | None) -> Iterator[PlanStore]:
    if plans is not None:
        yield plans
        return
    with tempfile.TemporaryDirectory(prefix="visionmesh-plans-") as folder:
        yield FolderPlans(Path(folder))


class _Wanted:
    """What is asked for, and the plan that it needs."""

    def __init__(self, weights: Path, spec: ModelSpec, instance: Instance) -> None:
        self.weights = weights
        self.spec = spec
        self.device = instance.device
        self.options = Options.of(spec, instance)
        self.trt = load_runtime(self.options.runtime)
        self.gpu = open_gpu(instance.device)
        self.sizes = powers(spec.batching.max_size)
        key = plan_key(
            self.trt,
            self.gpu.info,
            network=file_sha256(weights),
            shape=shape_of(spec),
            sizes=self.sizes,
            options=self.options.build,
        )
        self.key = str(key)
        self.timings = f"{key.timings}.timings"


def _plan(wanted: _Wanted, store: PlanStore) -> Plan:
    """Return the plan that is in the store, or a new one, which is stored then."""
    with store.alone(wanted.key):
        if (stored := store.get(wanted.key)) is not None:
            try:
                return _loaded(wanted, stored)
            except (GpuMemoryError, GpuLostError):
                raise
            except (GpuError, OSError) as error:  # the latter: it was forgotten just now
                log.warning("model %s: its plan is built again: %s", wanted.spec.name, error)
        with _built(wanted, store, instead_of=stored) as file:
            return _loaded(wanted, file)


@contextmanager
def _built(
    wanted: _Wanted,
    store: PlanStore,
    *,
    told: Callable[[str], None] = lambda _: None,
    instead_of: Path | None = None,
) -> Iterator[Path]:
    """Build the plan, store it, and yield a file of it that nobody forgets meanwhile."""
    with tempfile.TemporaryDirectory(prefix="building-", dir=store.folder) as scratch:
        job = Job(
            weights=wanted.weights.absolute(),
            plan=(Path(scratch) / "plan").absolute(),
            timings=(store.folder / wanted.timings).absolute(),
            device=wanted.device,
            shape=shape_of(wanted.spec),
            sizes=wanted.sizes,
            options=wanted.options.build,
        )
        name, timeout = wanted.spec.name, wanted.options.timeout
        with store.building():
            build_plan(job, model=name, timeout=timeout, plans=store, told=told)
        store.put(wanted.key, job.plan, instead_of=instead_of)
        yield job.plan


def shape_of(spec: ModelSpec) -> tuple[int, ...]:
    """Return the shape of one image in the network's layout."""
    sides = {"C": spec.input.channels, "H": spec.input.height, "W": spec.input.width}
    return tuple(sides[axis] for axis in spec.input.layout[1:])


def _loaded(wanted: _Wanted, file: Path) -> Plan:
    try:
        return load_plan(wanted.trt, file, sizes=wanted.sizes)
    except NetworkError as error:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"TensorRT cannot run model {wanted.spec.name!r}: {error}."
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
