"""Run the ingest service; settings come from the environment."""

from __future__ import annotations

import sys

from services.ingest.service import Ingest
from visionmesh.service import run
from visionmesh.subjects import EVENTS

if __name__ == "__main__":
    sys.exit(run(stage="ingest", stream=EVENTS, build=Ingest))
