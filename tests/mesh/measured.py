"""What the workers of a stage tell in their metrics."""

from __future__ import annotations

from collections import Counter

import httpx

from visionmesh.client import Mesh


async def measured(mesh: Mesh, stage: str, beginning: str) -> Counter[str]:
    """Return the sum of the metrics whose lines begin so, by node."""
    found: Counter[str] = Counter()
    async with httpx.AsyncClient() as http:
        for node in await mesh.nodes():
            if node.stage == stage:
                told = (await http.get(f"{node.http}/metrics")).text
                lines = [line for line in told.splitlines() if line.startswith(beginning)]
                found[node.node] += sum(int(float(line.split()[-1])) for line in lines)
    return found


async def computed(mesh: Mesh, model: str) -> Counter[str]:
    """Return how many images of ``model`` the engines of each node have run."""
    return await measured(mesh, "infer", f'visionmesh_engine_seconds_count{{model="{model}"')
