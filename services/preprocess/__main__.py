"""Run the preprocess service; settings come from the environment."""

from __future__ import annotations

import sys

from services.preprocess.service import Preprocess
from visionmesh.service import run
from visionmesh.subjects import IMAGES

if __name__ == "__main__":
    sys.exit(run(stage="preprocess", stream=IMAGES, build=Preprocess))
