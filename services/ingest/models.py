"""What people do with models by the protocols: list, load, unload, create, copy and delete."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

from services.ingest.door import Caller, Right
from visionmesh.context import Context
from visionmesh.contracts import Params
from visionmesh.errors import Code, ConfigurationError, Refused, Reject
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.spec import OutputSpec
from visionmesh.models.traffic import Traffic
from visionmesh.nodes import LoadedVersion, list_nodes
from visionmesh.subjects import require_token

LOADED_WITHIN = timedelta(minutes=2)
"""How long a request waits at most until a model is loaded or unloaded."""


class Models:
    """The models of the mesh, for those who may change them."""

    def __init__(self, *, context: Context) -> None:
        self._context = context
        self._registry = context.catalog.registry
        self._heard = asyncio.Event()
        context.nodes.on_change(self._heard.set)
        context.catalog.on_change(self._hear)

    async def list(self) -> tuple[ModelRecord, ...]:
        """Return all models, by name; raise `Refused` (mesh_unreachable)."""
        return await self._registry.list()

    async def show(self, name: str) -> ModelRecord:
        """Return a model; raise `Refused` (unknown_model, invalid_name, mesh_unreachable)."""
        return await self._registry.get(name)

    def ready(self, name: str) -> frozenset[int]:
        """Return the versions that images can be given to now."""
        return self._context.nodes.versions(name)

    async def in_memory(self) -> Sequence[LoadedVersion]:
        """Return what infer workers hold in memory; raise `Retry` (mesh_unreachable)."""
        nodes = await list_nodes(self._context.connection.client)
        return [version for node in nodes if node.stage == "infer" for version in node.loaded]

    async def unpark(self, name: str) -> ModelRecord:
        """Undo `unload`; raise `Refused` (unknown_model, invalid_name, mesh_unreachable)."""
        return await self._registry.change(name, _parked(False))

    async def unload(self, name: str, *, within: timedelta = LOADED_WITHIN) -> ModelRecord:
        """Have all workers unload the model, and return when they have; its events wait then.

        Raises
        ------
        Refused
            (unknown_model); (timeout) if some worker still has it ``within`` that.
        """
        record = await self._registry.change(name, _parked(True))
        if not await self._until(lambda: not self._context.nodes.serving(name), within):
            raise Refused(Code.TIMEOUT, f"Some worker still has {name!r} in memory; look again.")
        return record

    def is_coming(self, record: ModelRecord) -> bool:
        """Say whether workers have yet to load the model, of which none runs any version."""
        name = record.spec.name
        nodes, catalog = self._context.nodes, self._context.catalog
        is_heard = catalog.revision >= record.revision
        return not nodes.serving(name) and not (is_heard and nodes.agreed(name, record.revision))

    async def wait_until_loaded(
        self,
        record: ModelRecord,
        *,
        wholly: bool = False,
        within: timedelta = LOADED_WITHIN,
    ) -> None:
        """Return when images are answered as ``record`` says, or as what came in its place since.

        Versions in reserve are enough unless ``wholly``: then all that it wants must be ready.
        What workers told of an earlier record does not count.

        Raises
        ------
        Refused
            (model_not_ready) if workers cannot load it, or have not ``within`` that, or it was
            unloaded meanwhile; (unknown_model) if it was removed.
        """
        name = record.spec.name
        nodes, catalog = self._context.nodes, self._context.catalog

        def applied() -> bool:
            known = catalog.find(name)
            is_heard = catalog.revision >= record.revision
            return is_heard and (known is None or nodes.agreed(name, known.revision))

        if not await self._until(applied, within):
            why = f"it was not loaded within {within.total_seconds():g} s."
        elif (known := catalog.find(name)) is None:
            raise Refused(Code.UNKNOWN_MODEL, f"The model {name!r} was removed meanwhile.")
        elif known.parked:
            why = "it was unloaded meanwhile."
        else:
            ready = nodes.versions(name) - nodes.outdated(name)
            if ready and (not wholly or ready.issuperset(known.wanted)):
                return
            why = nodes.failure(name) or "no version of it can be run and decoded."
        raise Refused(Code.MODEL_NOT_READY, f"The model {name!r} is not ready: {why}")

    async def create(self, name: str, files: Mapping[str, Path | bytes]) -> ModelRecord:
        """Store a model whose folder has ``files``, by their paths in it, such as ``model.yaml``.

        The model is called ``name`` whatever ``model.yaml`` says. A version that the mesh has
        under its number is replaced.

        Raises
        ------
        Reject
            (model_invalid) if the files are no model, (invalid_request) if a path leads elsewhere.
        Refused
            (model_exists, invalid_name, mesh_unreachable).
        """
        require_token("model", name)
        with tempfile.TemporaryDirectory(prefix="visionmesh-create-") as root:
            folder = Path(root) / name
            await asyncio.to_thread(_lay_out, folder, files)
            try:
                model = await asyncio.to_thread(load_folder, folder)
                spec = model.spec.model_copy(update={"name": name})
                return await self._registry.push(replace(model, spec=spec), replace=True)
            except ConfigurationError as error:
                raise Reject(error.code, error.message) from error
            except ModuleNotFoundError as error:
                why = f"This worker cannot check networks, as it lacks {error.name}: use a "
                raise Refused(Code.INVALID_REQUEST, f"{why}`visionmesh push`.") from error

    async def copy(
        self,
        source: str,
        name: str,
        *,
        version: int | None = None,
        params: Params | None = None,
    ) -> ModelRecord:
        """Store a model, or one ``version`` of it, also as ``name``, with ``params`` as its own.

        No file is copied. A model that had the name is replaced, and a parked one is loaded again.

        Raises
        ------
        Refused
            (unknown_model, unknown_version, invalid_name, mesh_unreachable).
        """
        record = _told(await self._registry.get(source), params or Params())
        changes: dict[str, object] = {"name": name}
        if version is not None:
            only = {version: record.version(version)}
            record = record.model_copy(update={"versions": only, "traffic": Traffic()})
            changes["traffic"] = {}
        spec = record.spec.model_copy(update=changes)
        return await self._registry.put(record.model_copy(update={"spec": spec, "parked": False}))

    async def delete(self, name: str, *, version: int | None = None) -> None:
        """Remove a model, or one of its versions.

        Raises
        ------
        Refused
            (unknown_model, unknown_version, mesh_unreachable); (invalid_traffic) if the version
            gets images.
        """
        if version is None:
            await self._registry.remove(name)
        else:
            await self._registry.change(name, lambda record: record.without(version))

    async def _hear(self, _: str, __: ModelRecord | None) -> None:
        self._heard.set()

    async def _until(self, probe: Callable[[], bool], within: timedelta) -> bool:
        """Return the last answer of ``probe``, which is asked whenever something was heard."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within.total_seconds()):
                while not probe():
                    self._heard.clear()
                    await self._heard.wait()
        return probe()


def visible(caller: Caller, records: Iterable[ModelRecord]) -> list[ModelRecord]:
    """Return those models that the caller may read of.

    Raises
    ------
    Refused
        (forbidden, unauthorized) if the caller may read of none, whatever its name.
    """
    caller.require(Right.READ)
    return [record for record in records if _may_read(caller, record.spec.name)]


def _may_read(caller: Caller, model: str) -> bool:
    try:
        caller.require(Right.READ, model)
    except Refused:
        return False
    return True


def _parked(parked: bool) -> Callable[[ModelRecord], ModelRecord]:
    return lambda record: record.model_copy(update={"parked": parked})


def _lay_out(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write a folder of ``files``; raise `Reject` if one would lie outside of it."""
    for path, content in files.items():
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or set(path) & {"\0", "\\"}:
            raise Reject(Code.INVALID_REQUEST, f"{path!r} is no file of a model's folder.")
        target = folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(content, target)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            why = f"{path!r} is named as a file and as a folder."
            raise Reject(Code.INVALID_REQUEST, why) from error


def _place(content: Path | bytes, target: Path) -> None:
    if isinstance(content, bytes):
        target.write_bytes(content)
    else:
        try:
            target.hardlink_to(content)
        except OSError:  # on another file system
            shutil.copyfile(content, target)


def _told(record: ModelRecord, params: Params) -> ModelRecord:
    changes = params.model_dump(exclude_none=True)
    if not changes:
        return record

    def told(output: OutputSpec) -> OutputSpec:
        return output.model_copy(update=changes)

    versions = {
        number: version.model_copy(update={"output": told(version.output)})
        for number, version in record.versions.items()
    }
    spec = record.spec.model_copy(update={"output": told(record.spec.output)})
    return record.model_copy(update={"spec": spec, "versions": versions})
