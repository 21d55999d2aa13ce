"""DETR and RT-DETR: a set of queries, each with one box and its classes."""

from __future__ import annotations

import numpy as np

from services.postprocess.decoders.activations import Activation, activate
from services.postprocess.decoders.candidates import (
    BOX,
    Detector,
    SizedParameters,
    corners,
    frame,
    require_no_nms,
    strongest,
    strongest_pairs,
    to_features,
)
from services.postprocess.decoders.protocol import (
    Array,
    Arrays,
    misfit,
    pick,
    pick_boxes_and_scores,
    read_parameters,
    require_scores,
)
from visionmesh.models.spec import ModelSpec


class DetrParameters(SizedParameters):
    normalized: bool = True
    boxes: str | None = None
    scores: str | None = None
    """The outputs' names, where shapes and names do not tell."""
    activation: Activation | None = None
    """`None`: softmax if there is a class more than labels, sigmoid if there are as many; and none
    if boxes and scores are one output."""


class Detr(Detector):
    """Decodes (Q, C) logits and (Q, 4) boxes, or both in one (Q, 4 + C): scores behind the box.

    Boxes are centre x and y, width and height, parts of the input's size unless ``normalized`` is
    false. With softmax the last class is "no object", and a query tells its best other class
    (Carion et al., DETR, arXiv:2005.12872). Otherwise each class of a query is a box of its own
    (Zhao et al., RT-DETR, arXiv:2304.08069). Boxes are not suppressed.
    """

    def __init__(self, spec: ModelSpec) -> None:
        require_no_nms(spec)
        self._parameters = read_parameters(DetrParameters, spec)
        if not spec.labels and self._parameters.activation is None:
            raise ValueError(
                "without labels, parameter activation must be softmax, sigmoid or none"
            )
        super().__init__(spec, self._parameters, nms="none")
        self._scale = frame(spec.input, normalized=self._parameters.normalized)

    def reduce(self, outputs: Arrays) -> dict[str, Array]:
        boxes, logits, activation = self._pick(outputs)
        scores = activate(logits.astype(np.float32, copy=False), activation)
        require_scores(scores)
        if activation == "softmax":
            best = scores[:, :-1].max(axis=1)
            queries = strongest(best, self.floor)
            classes, sure = scores[queries, :-1].argmax(axis=1), best[queries]
        else:
            queries, classes, sure = strongest_pairs(scores, self.floor)
        boxes = boxes[queries].astype(np.float32) * self._scale
        return to_features(corners(boxes[:, :2], boxes[:, 2:]), sure, classes)

    def _pick(self, outputs: Arrays) -> tuple[Array, Array, Activation]:
        """Return boxes, logits and what makes scores of these."""
        if self._tensor is not None or len(outputs) == 1:
            output = pick(outputs, self._tensor)
            activation = self.activation(output.shape, together=True)
            return output[:, :BOX], output[:, BOX:], activation
        boxes, logits = pick_boxes_and_scores(
            outputs, self._parameters.boxes, self._parameters.scores
        )
        return boxes, logits, self.activation(logits.shape, together=False)

    def activation(self, shape: tuple[int, ...], *, together: bool) -> Activation:
        """Return what makes scores of (Q, C) logits; of (Q, 4 + C), ``together`` with the boxes.

        Raises
        ------
        Reject
            (model_invalid) If that is not the ``shape``, or C does not fit the labels.
        """
        if len(shape) != 2:  # noqa: PLR2004 - queries and their values
            raise misfit(f"detr wants (Q queries, {'4 + ' * together}C values), and sees {shape}")
        values = shape[1] - BOX * together
        usual: Activation = "sigmoid" if self._fits(values) else "softmax"
        activation = self._parameters.activation or ("none" if together else usual)
        if not self._fits(values - (activation == "softmax")):
            raise misfit(
                f"detr with {activation} wants {self._class_count} classes"
                f"{' and no-object' * (activation == 'softmax')}, and sees {values}"
            )
        return activation
