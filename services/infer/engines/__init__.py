"""What runs a network: one small protocol, and a table of implementations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu.gpu import DeviceArray, GpuError, GpuMemoryError
from visionmesh.gpu.opening import is_gpu
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

Image = NDArray[Any] | DeviceArray
"""``(height, width, channels) uint8`` in the colour order of the model's input; or one entry of
the network's batch as it is, in its own layout and dtype. On the host or, for the engines of a
GPU, in its memory."""

Outputs = dict[str, Any]
"""Arrays by the output's name; the first dimension is the batch. On the host, unless it was
allowed that they stay on the device."""


class Engine(Protocol):
    """One copy of a network on one device; used by one thread at a time."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the network runs with, in ascending order.

        They become fewer when the device has too little memory for the largest, for a while.
        """

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        """Return what the network says of up to ``batch_sizes[-1]`` images; block meanwhile.

        The arrays belong to the caller. Images are read during the call only. Unless the outputs
        must come ``home`` to the host, those of a GPU's engine may stay in its memory.

        Raises
        ------
        Reject
            (model_failed) if the network cannot work on one of these images.
        Retry
            If a device could not do it now.
        Fatal
            If it cannot work at all any more.
        """

    def warm(self) -> None:
        """Run every batch size once, so that no image pays for first-time work."""

    def close(self) -> None:
        """Free what the engine holds; it is not used again."""


class NoMemory(ConfigurationError):
    """A network cannot be loaded as a device has too little free memory for it now."""


class PlanStore(Protocol):
    """Keeps what engines have built of a network, for all nodes that can use it; may block."""

    @property
    def folder(self) -> Path:
        """On this node, for what belongs to plans; it need not be there."""

    def get(self, key: str) -> Path | None:
        """Return the file that was stored under ``key``; `None` if there is none."""

    def put(self, key: str, path: Path, *, instead_of: Path | None = None) -> None:
        """Store the file ``path`` under ``key``, in place of what `get` gave if it is of no use."""

    def alone(self, key: str) -> AbstractContextManager[None]:
        """Wait until nobody else on this node builds for ``key``, or the store is `closed`."""

    def building(self) -> AbstractContextManager[None]:
        """Wait until nothing else is built in this process, and let nothing be meanwhile."""

    def nothing_built(self) -> Callable[[], bool]:
        """Return what says whether nothing was built in this process since."""

    def forget(self, networks: Iterable[str]) -> None:
        """Delete from this node what was built of the networks with these SHA-256."""

    @property
    def closed(self) -> bool:
        """Whether nothing is to be built any more, as the worker ends."""

    def stopping(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """Have ``stop`` called when the store is `closed` meanwhile; at once if it was before."""


class Opener(Protocol):
    """What an engine's module offers under the name ``open_engines``."""

    def __call__(
        self,
        weights: Path,
        spec: ModelSpec,
        instance: Instance,
        *,
        count: int,
        precision: Precision,
        plans: PlanStore | None,
    ) -> tuple[Engine, ...]:
        """Return ``count`` engines, which share the weights where they can.

        Those that are meant for one copy's slots are not told from those of another copy. Raises
        `ConfigurationError` if the network cannot be loaded; nothing is kept of it then.
        """


ENGINES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cpu": {
            "onnxruntime": "services.infer.engines.onnxruntime",
            "openvino": "services.infer.engines.openvino",
            "torch": "services.infer.engines.torch",
        },
        "cuda": {
            "onnxruntime": "services.infer.engines.onnxruntime_device",
            "tensorrt": "services.infer.engines.tensorrt",
            "torch": "services.infer.engines.torch",
        },
        "emulated": {
            "onnxruntime": "services.infer.engines.onnxruntime_device",
            "torch": "services.infer.engines.torch",
        },
    }
)
"""The engines that serve a kind of device, and their modules."""

USUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("onnxruntime",), "cuda": ("onnxruntime",), "emulated": ("onnxruntime",)}
)
"""What is tried on a kind of device where ``model.yaml`` names no engines; the others are slower
or want other files, unless somebody has measured or made them."""

TENSORRT = "tensorrt"
"""The engine that computes in what its network says, and so has networks of its own."""

BUILT = frozenset({TENSORRT})
"""The engines for which something is to be built that takes long; their modules have ``build``."""

OF_PROGRAMS = frozenset({"torch"})
"""The engines that run a version's ``model.pt2``, where others run a network in ONNX."""

_PACKAGES: Mapping[str, str] = MappingProxyType({"openvino": "openvino", "torch": "torch"})
"""What to install for an engine, where it is no part of an extra."""


def kind_of(device: str) -> str:
    """Return the part of a device's name that says what it is: ``cuda`` of ``cuda:1``."""
    return device.partition(":")[0]


def engines_of(spec: ModelSpec, instance: Instance) -> tuple[str, ...]:
    """Return the engines to try for an instance, in that order.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves the device, one that it names does not, or there are
        options that none has.
    """
    kind = kind_of(instance.device)
    where = f"{spec.name}/model.yaml: instances"
    if not (kind == "cpu" or is_gpu(instance.device)):
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{where}: no engine serves the device {instance.device!r}; "
            f"use one of: {', '.join(ENGINES)}.",
        )
    for name in instance.engines:
        if name not in ENGINES[kind]:
            raise ConfigurationError(
                Code.MODEL_INVALID,
                f"{where}: no engine {name!r} serves the device {instance.device!r}; "
                f"there is: {', '.join(ENGINES[kind])}.",
            )
    names = instance.engines or USUAL[kind]
    if instance.options and kind == "cpu" and OF_PROGRAMS.isdisjoint(names):
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"{where}: options: {', '.join(names)} on the CPU has none; remove them.",
        )
    return names


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    engine: str | None = None,
    precision: Precision = Precision.FP32,
    plans: PlanStore | None = None,
) -> tuple[Engine, ...]:
    """Load ``weights`` and return ``count`` engines on the instance's device.

    Without ``engine`` it is the first of `engines_of`. ``precision`` says what is computed in; what
    the weights are in is seen in the file. Without ``plans`` what is built is built each time.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves the device, the engine is not installed, or the network
        cannot be loaded, `NoMemory` if there is no room for it; (device_missing) if the device is
        not in this machine.
    """
    name = engine or engines_of(spec, instance)[0]
    opener = cast(Opener, _module(spec, instance, name).open_engines)
    with _told(spec, instance):
        return opener(weights, spec, instance, count=count, precision=precision, plans=plans)


def build_for(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    engine: str,
    plans: PlanStore,
    told: Callable[[str], None],
) -> None:
    """Have ``plans`` keep what an engine of `BUILT` opens, if they do not yet: it takes minutes.

    ``told`` is called with how far that is. Raises as `open_engines`.
    """
    module = _module(spec, instance, engine)
    with _told(spec, instance):
        module.build(weights, spec, instance, plans=plans, told=told)


def _module(spec: ModelSpec, instance: Instance, engine: str) -> Any:
    """Import an engine's module: its packages are needed only where it is used."""
    try:
        return importlib.import_module(ENGINES[kind_of(instance.device)][engine])
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("services", "visionmesh"):
            raise
        package = _PACKAGES.get(engine, "'visionmesh[gpu]'")
        raise ConfigurationError(
            Code.MODEL_INVALID,
            f"Model {spec.name!r} wants the engine {engine}, which is not installed here "
            f"({error}); run: pip install {package}.",
        ) from error


@contextmanager
def _told(spec: ModelSpec, instance: Instance) -> Iterator[None]:
    """Raise what a device says as errors of the model."""
    try:
        yield
    except GpuError as error:
        kind = NoMemory if isinstance(error, GpuMemoryError) else ConfigurationError
        raise kind(
            Code.MODEL_INVALID,
            f"Model {spec.name!r} cannot be loaded on {instance.device}: {error}.",
        ) from error
