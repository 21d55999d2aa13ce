"""What a worker on this machine would run of a version, one copy of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from services.infer.engines import Engine
from services.infer.turns import Elsewhere, turns_of
from services.infer.ways import Stored, choose_way, plain_way
from visionmesh.contracts import Frozen
from visionmesh.cpu import cpu_features
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision
from visionmesh.workbench import Workbench, cores


class Running(Frozen):
    """How one copy of a network is run."""

    engine: str = "onnxruntime"
    precision: Precision = Precision.FP32
    """What is computed in; an INT8 or FP16 file brings its own."""
    instance: Instance = Instance()

    def __str__(self) -> str:
        threads = self.instance.threads
        return f"{self.engine} {self.precision}, {threads} thread{'s' * (threads > 1)}"

    def open(self, bench: Workbench, weights: Path) -> Engine:
        """Return a warm engine; raise `ConfigurationError` (model_invalid) if there can be none."""
        return bench.open(weights, self.instance, engine=self.engine, precision=self.precision)


class Here(NamedTuple):
    """What a worker here would do with a version."""

    running: Running
    sha256: str
    """Of the file that it runs."""
    plain: bool
    """It is what any machine can do with ``model.onnx``."""
    why: str


def running_here(spec: ModelSpec, version: Stored, *, plain: bool = False) -> Here:
    """Return the fastest way that is known for this machine; FP32 if it is to be ``plain``.

    Of a model that is for other nodes only it is what the CPU can do: that suffices to try it out.

    Raises
    ------
    ConfigurationError
        (model_invalid) if no engine serves a device of ``spec``.
    """
    try:
        spec = turns_of(spec)[0].spec
    except Elsewhere:
        spec = spec.model_copy(update={"instances": (Instance(),)})
    if plain:
        way = plain_way(spec, version, cores=cores(), why="as asked for")
    else:
        way = choose_way(spec, version, features=cpu_features(), cores=cores())
    first = way.copies[0]
    precision = way.precision_of(first.engine)
    running = Running(engine=first.engine, precision=precision, instance=first.instance)
    return Here(running, way.file_of(first.engine), way.plain, way.because)
