"""What every decoder does, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from visionmesh.contracts import Answer, Frozen, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.faults import first_fault
from visionmesh.models.spec import ModelSpec

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_BOXES = ((4,), (1, 4))
"""What follows the number of boxes in their shape."""
_TABLE = 2
"""Dimensions of boxes and their values."""
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
        fault = first_fault(error)
        if fault.is_unknown:
            known = ", ".join(sorted(kind.model_fields))
            raise ValueError(f"parameter {fault.where} is not known; there are {known}") from error
        raise ValueError(f"parameter {fault}") from error


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


def pick_as(outputs: Arrays, role: str, name: str | None, hints: tuple[str, ...]) -> Array:
    """Return the output called ``name``, or the only one with a hint in its name.

    ``role`` is the parameter that names it.
    """
    return outputs[_name_as(outputs, role, name, hints)]


def _name_as(names: Collection[str], role: str, name: str | None, hints: tuple[str, ...]) -> str:
    if name is None:
        found = [key for key in names if any(hint in key.lower() for hint in hints)]
        name = found[0] if len(found) == 1 else None
    if name is not None and name in names:
        return name
    raise misfit(
        f"the network's outputs are {', '.join(names) or 'none'}: "
        f"let output.{role} name the one with the {role}"
    )


def pick_boxes_and_scores(
    outputs: Arrays, boxes: str | None, scores: str | None
) -> tuple[Array, Array]:
    """Return (A, 4) boxes and (A, C) scores: the outputs that `name_boxes_and_scores` names."""
    shapes = {name: array.shape for name, array in outputs.items()}
    boxes, scores = name_boxes_and_scores(shapes, boxes, scores)
    box = outputs[boxes]
    return box.reshape(len(box), 4), outputs[scores]


def name_boxes_and_scores(
    shapes: Mapping[str, tuple[int, ...]], boxes: str | None, scores: str | None
) -> tuple[str, str]:
    """Return which outputs are the boxes and the scores: those of these names, else by shape and
    name.

    ``shapes`` are those of one image; sizes that only a run can tell are negative. Boxes are (A, 4)
    or (A, 1, 4), and scores (A, C).

    Raises
    ------
    Reject
        (model_invalid) If there are no such outputs, or several.
    """
    if boxes is None:
        fours = [name for name, shape in shapes.items() if shape[1:] in _BOXES]
        boxes = fours[0] if len(fours) == 1 and fours[0] != scores else None
    boxes = _name_as(shapes, "boxes", boxes, ("box", "loc"))
    others = [name for name in shapes if name != boxes]
    if scores is None and len(others) == 1:
        scores = others[0]
    scores = _name_as(others, "scores", scores, ("score", "logit", "conf", "class", "cls"))
    box, score = shapes[boxes], shapes[scores]
    if box[1:] not in _BOXES or len(score) != _TABLE or _differ(box[0], score[0]):
        raise misfit(f"boxes must be (A, 4) and scores (A, C), and they are {box} and {score}")
    return boxes, scores


def _differ(size: int, other: int) -> bool:
    """Say whether two sizes cannot be equal; negative ones may be any."""
    return size != other and min(size, other) >= 0


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
