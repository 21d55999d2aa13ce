"""The decoder without a detector that the documents give as an example works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from services.postprocess.decoders import Decoder, load_decoder
from services.postprocess.features import pack, unpack
from visionmesh.contracts import ClassScore, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec

DOCUMENT = Path(__file__).parents[4] / "docs/models.md"
ANYWHERE = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    """The documents' example, in a file where Python looks for modules."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "class Tags" in block)
    (tmp_path / "my_tags.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = {
        "name": "tagger",
        "task": "classification",
        "input": {"width": 8, "height": 8},
        "output": {"decoder": "my_tags:Tags", "confidence": 0.5},
        "labels": ["indoors", "night", "wet"],
    }
    return load_decoder(ModelSpec.model_validate(spec))


def test_it_answers_with_what_is_sure_enough(decoder: Decoder) -> None:
    scores = np.array([0.75, 0.25, 0.5], np.float16)
    features = unpack(pack(decoder.reduce({"o": scores})))
    sure = (ClassScore(label="indoors", score=0.75), ClassScore(label="wet", score=0.5))
    assert decoder.answer(features, Params(), ANYWHERE, 8, 8).classes == sure
    picky = Params(confidence=0.7)
    assert decoder.answer(features, picky, ANYWHERE, 8, 8).classes == sure[:1]


@pytest.mark.parametrize(
    ("scores", "code"),
    [(np.zeros(2), Code.MODEL_INVALID), (np.array([0, np.nan, 1]), Code.MODEL_FAILED)],
)
def test_it_refuses_what_it_cannot_read(
    decoder: Decoder, scores: np.ndarray[tuple[int], np.dtype[np.float64]], code: Code
) -> None:
    with pytest.raises(Reject) as caught:
        decoder.reduce({"o": scores})
    assert caught.value.code is code
