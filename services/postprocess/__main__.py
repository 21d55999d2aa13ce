"""Run the postprocess service; settings come from the environment."""

from __future__ import annotations

import sys

from services.postprocess.service import Postprocess
from visionmesh.service import run
from visionmesh.subjects import OUTPUTS

if __name__ == "__main__":
    sys.exit(run(stage="postprocess", stream=OUTPUTS, build=Postprocess))
