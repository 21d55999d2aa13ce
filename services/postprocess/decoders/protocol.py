"""What every decoder does, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from visionmesh.contracts import Answer, Frozen, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_SLACK = 1e-3
"""What rounding in half precision may add to a score of 1."""


@runtime_checkable
class Decoder(Protocol):
    """Two steps from a network's outputs to an answer, with the cacheable part between them."""

    floor: float
    """The least confidence that `answer` can honour: `reduce` dropped what scores less."""

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        """Return what any parameters could need: the features, owned arrays of a few KB in all.

        ``outputs`` are one image's, by name, without the batch dimension. They may be views of
        shared memory that is reused as soon as this returns.

        Raises
        ------
        Reject
            (model_invalid) If the outputs do not fit the model's description, (model_failed) if
            they are not finite.
        """
        ...

    def answer(
        self, features: Arrays, params: Params, placement: Placement, width: int, height: int
    ) -> Answer:
        """Return the answer for an original of ``width`` by ``height`` pixels.

        Raises
        ------
        FeaturesError
            If ``features`` are not what `reduce` of this model returns.
        """
        ...


class Parameters(Frozen):
    """What every decoder of one output understands."""

    tensor: str | None = None
    """The output's name; needed if the network has several."""


_P = TypeVar("_P", bound=Parameters)


def read_parameters(kind: type[_P], spec: ModelSpec) -> _P:
    """Return the decoder's own parameters; raise `ValueError` that names the first wrong one."""
    try:
        return kind.model_validate(spec.output.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"parameter {where}: {first['msg']}") from error


def pick(outputs: Arrays, name: str | None) -> Array:
    """Return the output called ``name``, or the only one."""
    if name is not None and name in outputs:
        return outputs[name]
    if name is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    raise misfit(
        f"the network's outputs are {', '.join(outputs) or 'none'}: "
        "let output.tensor name the one to decode"
    )


def misfit(why: str) -> Reject:
    return Reject(Code.MODEL_INVALID, f"The outputs do not fit model.yaml: {why}.")


def require_finite(values: Array) -> None:
    """Raise `Reject` (model_failed) if there is a NaN or an infinity among ``values``."""
    if not np.isfinite(values).all():
        raise Reject(Code.MODEL_FAILED, "The network's outputs are not finite numbers.")


def require_scores(values: Array) -> None:
    """Raise `Reject` (model_failed) if ``values`` are not between 0 and 1."""
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= -_SLACK and high <= 1 + _SLACK:  # false for a NaN, which is both
        return
    require_finite(values)
    raise Reject(
        Code.MODEL_FAILED,
        f"The scores run from {low:.3g} to {high:.3g}, not from 0 to 1: "
        "is an activation missing at the network's end?",
    )


def label(labels: tuple[str, ...], index: int) -> str:
    """Return the name of class ``index``; its number if the model names no labels."""
    return labels[index] if labels else str(index)
