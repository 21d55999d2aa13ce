"""The engines of a GPU against the plainest call of the same network by the same runtime.

    python -m bench.gpu.engines --networks resnet50,yolov8s,vit-b16

The engine takes pixels that lie on the device, normalises them, runs the network and leaves the
outputs there. The plain call is `session.run` of ONNX Runtime with arrays of the host; of PyTorch,
and beside TensorRT, the eager network with tensors of the device. Both answers must agree. The
floor is what computing, or moving weights, images and outputs once, takes at the device's measured
rates.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.gpu import networks
from bench.gpu.figures import Figure, measuring, options
from bench.gpu.machine import Ceilings, ceilings
from bench.gpu.pictures import picture
from bench.gpu.timing import seconds
from services.infer.engines import ENGINES, Engine, kind_of, open_engines
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.models.folder import load_folder
from visionmesh.models.spec import Instance, ModelSpec

AT_LEAST = MappingProxyType({1: 1.5, 32: 1.1})
"""How many times as fast as the plain call, by batch."""
FILES = MappingProxyType({"torch": "model.pt2"})
"""What an engine reads, if not ``model.onnx``."""
OPTIONS: MappingProxyType[str, dict[str, str | int | float | bool]] = MappingProxyType(
    {"torch": {"compile": True}}
)
_TOLERANCE = 0.02
"""Of FP16 sums in different orders, relative to the norm of all outputs."""

Batch = NDArray[np.float16]
Plain = Callable[[Batch], Callable[[], Any]]
"""Takes ``(N, 3, H, W)`` on the host and returns what runs it, blocking, and returns the output."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network, ready to be run in several ways."""

    name: str
    folder: Path
    spec: ModelSpec
    network: Any
    """The same in PyTorch, on the CPU."""
    cost: networks.Cost

    @classmethod
    def make(
        cls, root: Path, name: str, *, device: str, tiny: bool, engines: Sequence[str] = ()
    ) -> Subject:
        size = networks.size_of(name, small=tiny)
        instances: list[dict[str, object]] = [{"device": device, "engines": list(engines)}]
        folder = networks.folder(root, name, size=size, instances=instances, program=True)
        return cls(
            name=name,
            folder=folder,
            spec=load_folder(folder).spec,
            network=networks.build(name, size),
            cost=networks.cost(name, size),
        )

    def images(self, count: int) -> list[NDArray[np.uint8]]:
        """Return pixels as the mesh hands them to engines."""
        side = self.spec.input.width
        return [picture(number, width=side, height=side) for number in range(count)]

    def open(self, engine: str, instance: Instance, *, count: int = 1) -> tuple[Engine, ...]:
        """Return engines; raise `ConfigurationError` if they cannot be had here.

        They are not warm: what is compiled for batch sizes that nobody measures takes too long.
        """
        weights = self.folder / "1" / FILES.get(engine, "model.onnx")
        spec = self.spec.model_copy(update={"instances": (instance,)})
        return open_engines(weights, spec, instance, count=count, engine=engine)

    def plain(self, engine: str, gpu: Gpu) -> Plain:
        """Return the plain call that an engine is compared with."""
        if engine == "onnxruntime":
            return plain_session(self.folder / "1" / "model.onnx", gpu)
        return plain_network(self.network, gpu)


def plain_session(weights: Path, gpu: Gpu) -> Plain:
    """`session.run` with arrays of the host."""
    import onnxruntime  # noqa: PLC0415 - perhaps another engine is all that is here

    provider = "CUDAExecutionProvider" if gpu.info.kind == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(weights, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ConfigurationError(Code.MODEL_INVALID, f"ONNX Runtime has no {provider} here.")
    return lambda batch: lambda: session.run(None, {"images": batch})[0]


def plain_network(network: Any, gpu: Gpu) -> Plain:
    """The eager network with tensors of the device."""
    device = f"cuda:{gpu.info.index}" if gpu.info.kind == "cuda" else "cpu"
    moved = network.to(device)

    def prepare(batch: Batch) -> Callable[[], Any]:
        images = torch.from_numpy(batch).to(device)

        def run() -> Any:
            with torch.inference_mode():
                output = moved(images)
            if device != "cpu":
                torch.cuda.synchronize()
            return output

        return run

    return prepare


def compare(
    subject: Subject, engine: Engine, plain: Plain, *, gpu: Gpu, batch: int
) -> tuple[float, float]:
    """Return the medians of engine and plain call in seconds; assert that they agree."""
    images = subject.images(batch)
    normalised = (np.stack(images).transpose(0, 3, 1, 2) * np.float32(1 / 255)).astype(np.float16)
    with gpu.stream() as stream:
        there = [gpu.xp.asarray(image) for image in images]
        stream.synchronize()
    run = plain(normalised)
    (found,) = engine.run(there).values()
    _require_alike(np.asarray(found), _home(run()))
    own = statistics.median(seconds(lambda: engine.run(there, home=False)))
    return own, statistics.median(seconds(run))


def _home(output: Any) -> NDArray[Any]:
    return np.asarray(output.cpu() if isinstance(output, torch.Tensor) else output)


def _require_alike(found: NDArray[Any], expected: NDArray[Any]) -> None:
    apart = np.linalg.norm(found.astype(np.float32) - expected.astype(np.float32))
    limit = _TOLERANCE * np.linalg.norm(expected.astype(np.float32))
    assert apart <= limit, f"the outputs differ by {apart:.3g}, more than {limit:.3g}"


def measure(subject: Subject, name: str, *, gpu: Gpu, device: str, best: Ceilings) -> None:
    """Tell the figures of one engine."""
    instance = Instance(device=device, engines=(name,), slots=1, options=OPTIONS.get(name, {}))
    (engine,) = subject.open(name, instance)
    with closing(engine):
        plain = subject.plain(name, gpu)
        for batch, at_least in AT_LEAST.items():
            own, other = compare(subject, engine, plain, gpu=gpu, batch=batch)
            Figure(
                what=f"{subject.name}, batch {batch}: plain call ÷ {name}",
                value=other / own,
                at_least=at_least,
                floor=f"{subject.cost.floor(batch, best) * 1e3:.3f} ms",
                note=f"{own * 1e3:.3f} ms, {batch / own:,.0f} images/s; plain {other * 1e3:.3f} ms",
            ).tell()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--networks", default="resnet50,yolov8s,vit-b16")
    parser.add_argument("--engines", help="by default all that serve the device")
    arguments = parser.parse_args()
    gpu, tiny = open_gpu(arguments.device), arguments.tiny
    best = ceilings(gpu, tiny=tiny)
    names = ["tiny"] if tiny else arguments.networks.split(",")
    engines = arguments.engines or ",".join(ENGINES[kind_of(arguments.device)])
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            subject = Subject.make(Path(root), name, device=arguments.device, tiny=tiny)
            for engine in engines.split(","):
                with measuring(f"{name} by {engine}"):
                    measure(subject, engine, gpu=gpu, device=arguments.device, best=best)


if __name__ == "__main__":
    main()
