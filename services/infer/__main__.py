"""Run the infer service; settings come from the environment."""

from __future__ import annotations

import sys

from services.infer.service import Infer
from visionmesh.service import run
from visionmesh.subjects import TENSORS

if __name__ == "__main__":
    sys.exit(run(stage="infer", stream=TENSORS, build=Infer))
