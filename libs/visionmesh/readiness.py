"""Waiting until the processes of a mesh take work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence, Set
from datetime import timedelta

from nats.aio.client import Client

from visionmesh.errors import Code, ConfigurationError, Retry
from visionmesh.nodes import NodeRecord, list_nodes
from visionmesh.supervisor import Keeper

HEARD_WITHIN = timedelta(seconds=60)
"""Of a process by then; what a worker that is heard of does meanwhile, loading, may take longer."""
_POLL = timedelta(milliseconds=100)
_HOPELESS = 3
"""A service that ended so often before it was ever ready will not become so."""

log = logging.getLogger(__name__)


async def until_ready(
    client: Client, keepers: Sequence[Keeper], *, node: str, models: Set[str]
) -> None:
    """Return when all processes on ``node`` have said that they take work, and serve ``models``.

    Raises
    ------
    ConfigurationError
        (settings_invalid) if a process is not heard of in time, or ends again and again;
        (model_failed) if a model cannot be loaded.
    Retry
        If the NATS server does not answer for so long (mesh_unreachable).
    """
    deadline = time.monotonic() + HEARD_WITHIN.total_seconds()
    while True:
        try:
            nodes = await list_nodes(client)
        except Retry:
            # All of the machine may be at work on loading.
            if time.monotonic() > deadline + HEARD_WITHIN.total_seconds():
                raise
            await asyncio.sleep(_POLL.total_seconds())
            continue
        heard = {one.pid: one for one in nodes if one.node == node}
        waiting = [one for one in keepers if not _ready(heard.get(one.pid or 0), models)]
        if not waiting:
            return
        late = time.monotonic() > deadline
        for keeper in waiting:
            if (late and keeper.pid not in heard) or keeper.restarts >= _HOPELESS:
                raise ConfigurationError(
                    Code.SETTINGS_INVALID,
                    f"{keeper.name} does not become ready. It said:\n{keeper.last_output}",
                )
        if late:
            log.info("%s still loading", ", ".join(keeper.name for keeper in waiting))
            deadline += HEARD_WITHIN.total_seconds()
        await asyncio.sleep(_POLL.total_seconds())


def _ready(node: NodeRecord | None, models: Set[str]) -> bool:
    if node is None or not node.ready:
        return False
    for version, why in node.failed.items():
        model, _, number = version.partition("/")
        if model in models:
            message = f"Version {number} of {model} cannot be loaded: {why}"
            raise ConfigurationError(Code.MODEL_FAILED, message)
    # What it neither serves nor has failed to is for nodes with other devices.
    settled = node.models.keys() | (node.applied or {}).keys()
    return node.stage != "infer" or models <= settled
