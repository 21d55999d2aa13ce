"""What models the mesh has."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Request, Response

from services.ingest.door import Right, caller_of
from services.ingest.forms import refusal
from services.ingest.models import visible
from services.ingest.rest import documents
from visionmesh.catalog import Catalog
from visionmesh.contracts import Frozen
from visionmesh.errors import Code, VisionmeshError
from visionmesh.models.record import ModelRecord
from visionmesh.models.spec import InputSpec, Task
from visionmesh.nodes import Nodes
from visionmesh.subjects import require_token


class Version(Frozen):
    """One version of a model."""

    sha256: str
    size_bytes: int
    pushed_at: datetime
    ready: bool
    """Images can be given to it now."""
    traffic: float
    """Its weight among the versions that get images."""


class Model(Frozen):
    """One model, as its newest version is."""

    name: str
    task: Task
    description: str
    labels: tuple[str, ...]
    input: InputSpec
    ready: bool
    parked: bool
    """Unloaded by request."""
    versions: dict[int, Version]

    @classmethod
    def of(cls, record: ModelRecord, ready: frozenset[int]) -> Model:
        newest = record.spec_of(record.newest)
        versions = {
            number: Version(
                sha256=version.sha256,
                size_bytes=version.size_bytes,
                pushed_at=version.pushed_at,
                ready=number in ready,
                traffic=record.shares.get(number, 0.0),
            )
            for number, version in record.versions.items()
        }
        return cls(
            name=record.spec.name,
            task=newest.task,
            description=newest.description,
            labels=newest.labels,
            input=newest.input,
            ready=bool(ready),
            parked=record.parked,
            versions=versions,
        )


class Models(Frozen):
    """The models that the caller may know of, by name."""

    models: tuple[Model, ...]


def model_routes(*, catalog: Catalog, nodes: Nodes) -> APIRouter:
    """Return the routes that tell what models there are."""
    router = APIRouter()

    @router.get("/v1/models", response_model=Models, responses=documents.errors())
    async def list_models(request: Request) -> Response:
        """Tell all models that the caller may know of."""
        known = (catalog.find(name) for name in catalog.names())
        try:
            records = visible(caller_of(request.scope), (one for one in known if one is not None))
        except VisionmeshError as error:
            return refusal(error)
        found = [Model.of(record, nodes.versions(record.spec.name)) for record in records]
        return _json(Models(models=tuple(found)))

    @router.get(
        "/v1/models/{model}",
        response_model=Model,
        responses=documents.errors(Code.INVALID_NAME, Code.UNKNOWN_MODEL),
        openapi_extra={"parameters": [documents.in_path("model", pattern=documents.NAME)]},
    )
    async def show_model(request: Request) -> Response:
        """Tell what a model is, and which versions of it can be given images."""
        name = request.path_params["model"]
        try:
            caller_of(request.scope).require(Right.READ, name)
            record = await catalog.look_up(require_token("model", name))
        except VisionmeshError as error:
            return refusal(error)
        return _json(Model.of(record, nodes.versions(name)))

    return router


def _json(answer: Frozen) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
