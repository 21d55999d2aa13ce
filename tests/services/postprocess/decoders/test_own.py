"""The decoder that the documents give as an example works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from services.postprocess.decoders import load_decoder
from tests.services.postprocess.reference import Found, detector, found
from visionmesh.contracts import Params, Placement
from visionmesh.errors import Code, Reject

DOCUMENT = Path(__file__).parents[4] / "docs/models.md"
IDENTITY = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def test_a_decoder_of_the_users_own_is_used_as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?class Faces.*?)```", DOCUMENT.read_text(), re.DOTALL)
    module = ModuleType("my_heads")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_heads", module)
    decoder = load_decoder(detector("my_heads:Faces", 1, size=(64, 48)))
    rows = [[0, 0, 20, 20, 0.5], [0, 0, 20, 18, 0.4], [30, 0, 40, 9, 0.75], [0, 0, 9, 9, 0.01]]
    features = decoder.reduce({"o": np.array(rows, np.float32)})
    assert found(decoder.answer(features, Params(), IDENTITY, 64, 48)) == [
        Found(0.75, 0, (30.0, 0.0, 40.0, 9.0)),
        Found(0.5, 0, (0.0, 0.0, 20.0, 20.0)),
    ]
    with pytest.raises(Reject, match="Faces wants") as caught:
        decoder.reduce({"o": np.zeros((3, 6))})
    assert caught.value.code is Code.MODEL_INVALID


def test_the_priors_that_the_documents_show_are_understood() -> None:

    (text,) = re.findall(
        r"```yaml\n(output:\n  decoder: ssd.*?)```", DOCUMENT.read_text(), re.DOTALL
    )
    output = yaml.safe_load(text)["output"]
    decoder = load_decoder(detector(output.pop("decoder"), 1, size=(64, 48), **output))
    # 8 x 6 cells with three boxes each, and 4 x 3 with two.
    count = 8 * 6 * 3 + 4 * 3 * 2
    outputs = {"boxes": np.zeros((count, 4)), "scores": np.tile((0.0, 9.0), (count, 1))}
    assert len(decoder.reduce(outputs)["scores"]) == count
