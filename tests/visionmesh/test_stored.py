from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.contracts import Answer, ClassScore, Detection, Placement
from visionmesh.stored import (
    FeaturesHead,
    StoredAnswer,
    join_features,
    split_features,
    unfold,
)

sizes = st.integers(1, 100_000)
numbers = st.floats(-1e6, 1e6)
placements = st.builds(
    Placement, scale_x=numbers, scale_y=numbers, offset_x=numbers, offset_y=numbers
)
heads = st.builds(FeaturesHead, width=sizes, height=sizes, placement=placements)
scores = st.floats(0, 1)
detections = st.builds(
    Detection, label=st.text(), score=scores, box=st.tuples(numbers, numbers, numbers, numbers)
)
answers = st.builds(
    StoredAnswer,
    width=sizes,
    height=sizes,
    detections=st.none() | st.lists(detections, max_size=3).map(tuple),
    classes=st.none()
    | st.lists(st.builds(ClassScore, label=st.text(), score=scores), max_size=3).map(tuple),
)


@given(heads, st.binary(max_size=100) | st.just(b"\n\n{}\n"))
def test_features_are_split_as_they_were_joined(head: FeaturesHead, packed: bytes) -> None:
    assert split_features(join_features(head, packed)) == (head, packed)


@given(st.binary(max_size=60).map(lambda value: value.replace(b"V", b"")))
def test_what_are_no_features_is_told_by_an_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="features"):
        split_features(value)


def test_a_head_of_another_release_is_told_by_an_error() -> None:
    with pytest.raises(ValueError, match="with their head"):
        split_features(b'{"width": 4, "height": 3}\nfeatures of some length')


@given(answers)
def test_an_answer_is_read_as_it_was_stored(answer: StoredAnswer) -> None:
    assert StoredAnswer.from_bytes(answer.to_bytes()) == answer


@given(answers, st.data())
def test_a_damaged_answer_is_told_by_an_error(answer: StoredAnswer, data: st.DataObject) -> None:
    value = answer.to_bytes()
    end = data.draw(st.integers(0, len(value) - 1))
    for damaged in (value[:end], value + b"x", answer.model_dump_json().encode()):
        with pytest.raises(ValueError, match="stored value"):
            StoredAnswer.from_bytes(damaged)


def test_a_value_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        unfold(zlib.compress(bytes(17 << 20)))


def test_a_stored_answer_gives_what_was_recognised_and_nothing_else() -> None:
    found = Detection(label="dog", score=0.5, box=(0, 0, 1, 1))
    recognised = StoredAnswer(width=4, height=3, detections=(found,)).recognised()
    assert recognised == Answer(detections=(found,)).recognised()
    rest = dict.fromkeys(("classes", "regions", "heatmap", "embedding"))
    assert recognised == {"detections": (found,), **rest}
