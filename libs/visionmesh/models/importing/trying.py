"""Tries an imported model: one image through the very functions that serve it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from visionmesh.contracts import Params
from visionmesh.errors import Reject
from visionmesh.models.importing.probe import Outputs
from visionmesh.models.importing.wishes import misfit
from visionmesh.models.spec import Batching, ModelSpec
from visionmesh.workbench import Workbench

_HEIGHT, _WIDTH = 360, 480
_CELL = 24
"""A picture with areas, rather than noise that no network was trained on."""


def require_answer(network: Path, spec: ModelSpec) -> None:
    """Raise `ConfigurationError` (model_invalid) unless ``network`` answers as ``spec`` says."""
    bench = Workbench(spec.model_copy(update={"batching": Batching(max_size=1)}))
    sample = bench.sample(_picture())
    engine = bench.open(network)
    try:
        outputs = engine.run([sample.pixels])
        _require_finite(outputs)
        bench.read(outputs, 0, sample, Params())
    except Reject as error:
        raise misfit(
            f"the network cannot serve as {spec.output.decoder}: {error.message.rstrip('.')}; "
            "another decoder is named with --decoder, and its parameters with --set"
        ) from error
    finally:
        engine.close()


def _require_finite(outputs: Outputs) -> None:
    broken = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    if broken:
        raise misfit(
            f"for a made-up image the network gives NaN or infinity in {', '.join(broken)}; "
            "see whether it is right before it is exported, and in full precision"
        )


def _picture() -> bytes:
    cells = np.random.default_rng(0).integers(
        0, 256, (_HEIGHT // _CELL, _WIDTH // _CELL, 3), np.uint8
    )
    picture = cv2.resize(cells, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_LINEAR)
    return cv2.imencode(".png", picture)[1].tobytes()
