"""A request for inference, whichever wire it came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic_core import to_json

from services.ingest.oip.tensors import Tensor
from visionmesh.contracts import Params, Priority
from visionmesh.errors import Code, Reject
from visionmesh.events import parse_params

_HIGHEST = 1
"""Of the protocol's priorities; 0 is the default one."""
_LONGEST_NAME = 256
_LONGEST = 1 << 53
"""Microseconds of a timeout: 285 years, and exact as a number of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputWish:
    """An output that is asked for by name."""

    name: str
    binary: bool = True
    classification: int = 0
    """So many classes of the highest values instead of the values; 0: the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parameters of a request that are not of a tensor."""

    params: Params = field(default_factory=Params)
    priority: Priority = Priority.NORMAL
    timeout: timedelta | None = None
    binary: bool = False
    """Whether outputs that do not say it themselves are wanted in binary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """Inputs, and which outputs are wanted of them; no ``outputs``: the usual ones."""

    id: str = ""
    inputs: tuple[Tensor, ...]
    outputs: tuple[OutputWish, ...] = ()
    options: Options = field(default_factory=Options)

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs."""
        return sum(tensor.nbytes for tensor in self.inputs)


def fault(why: str) -> Reject:
    return Reject(Code.INVALID_REQUEST, why)


def read_name(name: object) -> str:
    """Return the name of an input or output; raise `Reject` (invalid_request) if it is none."""
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME:
        raise fault(f"Inputs and outputs must have a name, of up to {_LONGEST_NAME} characters.")
    return name


def read_options(parameters: Mapping[str, Any]) -> Options:
    """Read the parameters of a request; raise `Reject` for what is unknown or out of bounds."""
    left = dict(parameters)
    for name in ("sequence_start", "sequence_end", "triton_enable_empty_final_response"):
        left.pop(name, None)
    if left.pop("sequence_id", 0) not in (0, ""):
        raise fault("The models keep no state: there are no sequences; leave out sequence_id.")
    priority = _whole(left.pop("priority", 0), "priority")
    timeout = _whole(left.pop("timeout", 0), "timeout")
    binary = _flag(left.pop("binary_data_output", False), "binary_data_output")
    return Options(
        params=parse_params(_json(left)) if left else Params(),
        priority=Priority.HIGH if priority == _HIGHEST else Priority.NORMAL,
        timeout=timedelta(microseconds=timeout) if timeout else None,
        binary=binary,
    )


def read_wish(name: str, parameters: Mapping[str, Any], *, binary: bool) -> OutputWish:
    """Read one requested output; raise `Reject` for parameters that are unknown."""
    left = dict(parameters)
    wish = OutputWish(
        name=name,
        binary=_flag(left.pop("binary_data", binary), "binary_data"),
        classification=_whole(left.pop("classification", 0), "classification"),
    )
    if left:
        raise fault(
            f"The output {name!r} has the parameter {next(iter(left))!r}, which is unknown."
        )
    return wish


def require_different(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise fault(f"No {kind} may be named twice.")


def _json(parameters: Mapping[str, Any]) -> bytes:
    try:
        return to_json(parameters)
    except ValueError as error:  # text that is no Unicode
        raise fault("A parameter is no text.") from error


def _whole(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < _LONGEST:
        raise fault(f"{name} must be a whole number, 0 or more.")
    return value


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise fault(f"{name} must be true or false.")
    return value
