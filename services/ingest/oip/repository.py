"""Loading and unloading models by the protocol."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from services.ingest.door import Caller, Right
from services.ingest.models import Models, visible
from services.ingest.oip import describe
from services.ingest.oip.describe import Document
from services.ingest.oip.request import fault
from visionmesh.subjects import require_token

FILE = "file:"
"""Before the path in the names of parameters that are files of the model."""
_NO_CONFIG = ("config", "{}")
"""Stock clients send files only together with a configuration."""


class Repository:
    """The models of the mesh as a repository; all methods raise `Refused` and `Reject`."""

    def __init__(self, *, models: Models) -> None:
        self._models = models

    async def index(self, caller: Caller, *, only_ready: bool) -> list[Document]:
        """Return all versions of the models that the caller may know of, or those that answer."""
        records = visible(caller, await self._models.list())
        ready = {record.spec.name: self._models.ready(record.spec.name) for record in records}
        return [
            one
            for one in describe.index(records, ready=ready)
            if not only_ready or one["state"] == "READY"
        ]

    async def load(self, caller: Caller, model: str, parameters: Mapping[str, Any]) -> None:
        """Store what comes along, and return when the model is loaded: see `store`."""
        await (await self.store(caller, model, parameters))

    async def store(
        self, caller: Caller, model: str, parameters: Mapping[str, Any]
    ) -> Coroutine[Any, Any, None]:
        """Undo `unload`, and return what waits until the model is loaded.

        With ``file:<path>`` parameters the model is stored first, from the files of its folder;
        versions in reserve do not count then.
        """
        caller.require(Right.ADMIN, model)
        require_token("model", model)
        files = _files(parameters)
        if files:
            await self._models.create(model, files)
        record = await self._models.unpark(model)
        return self._models.wait_until_loaded(record, wholly=bool(files))

    async def unload(self, caller: Caller, model: str, parameters: Mapping[str, Any]) -> None:
        """Return when no worker has the model in memory; its events wait then."""
        caller.require(Right.ADMIN, model)
        for name in parameters:
            if name != "unload_dependents":  # no model here depends on another one
                raise fault(f"Unloading has no parameter {name!r}.")
        await self._models.unload(require_token("model", model))


def _files(parameters: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files that come with a request, by their paths in the model's folder."""
    files = {}
    for name, value in parameters.items():
        if (name, value) == _NO_CONFIG:
            continue
        path = name.removeprefix(FILE)
        if path == name:
            why = "send model.yaml and the weights as file:model.yaml and so on"
            raise fault(f"Loading has no parameter {name!r}: {why}.")
        if not isinstance(value, bytes):
            raise fault(f"{name} must be the bytes of the file.")
        files[path] = value
    return files
