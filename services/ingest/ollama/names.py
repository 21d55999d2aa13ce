"""What Ollama's clients call a model: its name, and after a colon `latest` or a version."""

from __future__ import annotations

from dataclasses import dataclass

from services.ingest.door import Caller, Right
from services.ingest.models import Models
from visionmesh.errors import Code, Refused, Reject
from visionmesh.models.record import ModelRecord
from visionmesh.subjects import is_token, name_fault

LATEST = "latest"


@dataclass(frozen=True)
class Name:
    """A model, or one version of it."""

    model: str
    version: int | None = None
    """`None`: whose turn it is."""

    def __str__(self) -> str:
        return f"{self.model}:{self.version or LATEST}"


def parse_name(text: str) -> Name:
    """Read ``model``, ``model:latest`` or ``model:3``.

    Raises
    ------
    Refused
        (unknown_model) for everything else: no such model can be here.
    """
    model, _, tag = text.removeprefix("library/").partition(":")
    if not is_token(model):
        raise not_found(text)
    if tag in ("", LATEST):
        return Name(model)
    if not (tag.isascii() and tag.isdigit() and int(tag[:9]) > 0 and len(tag) <= 9):  # noqa: PLR2004 - digits
        raise not_found(text)
    return Name(model, int(tag))


async def find(
    models: Models, text: str, *, caller: Caller, right: Right
) -> tuple[Name, ModelRecord]:
    """Return the name and the record of a model.

    Raises
    ------
    Refused
        (forbidden) if the caller has not that right, be the model there or not; (unknown_model).
    """
    name = parse_name(text)
    caller.require(right, name.model)
    try:
        record = await models.show(name.model)
    except Refused as error:
        raise (not_found(text) if error.code is Code.UNKNOWN_MODEL else error) from error
    if name.version is not None and name.version not in record.versions:
        raise not_found(text)
    return name, record


def new_name(text: str) -> str:
    """Return the name of a model that is to be made; raise `Reject` (invalid_name)."""
    model = text.removesuffix(f":{LATEST}")
    if not is_token(model):
        raise Reject(Code.INVALID_NAME, f"invalid model name: {name_fault('model', text[:100])}")
    return model


def not_found(text: str) -> Refused:
    """Return the error that clients know by its words."""
    return Refused(Code.UNKNOWN_MODEL, f"model {text[:100]!r} not found")
