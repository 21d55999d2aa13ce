from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.postprocess.decoders import load_decoder
from services.postprocess.features import FeaturesError
from visionmesh.contracts import ClassScore, Params, Placement
from visionmesh.errors import Code, Reject
from visionmesh.models.spec import ModelSpec

ANYWHERE = Placement(scale_x=1, scale_y=1, offset_x=0, offset_y=0)


def classifier(*labels: str, **output: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "sorter",
            "task": "classification",
            "input": {"width": 8, "height": 8},
            "output": {"decoder": "softmax", **output},
            "labels": labels,
        }
    )


def classes(
    spec: ModelSpec, values: object, params: Params | None = None
) -> tuple[ClassScore, ...]:
    decoder = load_decoder(spec)
    features = decoder.reduce({"scores": np.array(values, np.float32)})
    answer = decoder.answer(features, params or Params(), ANYWHERE, 1, 1)
    assert answer.classes is not None
    return answer.classes


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_logits_of_any_size_become_the_probabilities_of_exact_arithmetic(
    logits: list[float],
) -> None:
    powers = [Decimal(logit).exp() for logit in logits]
    wanted = [float(power / sum(powers)) for power in powers]
    order = sorted(range(len(logits)), key=lambda index: (-logits[index], index))
    answer = classes(classifier(top_k=30), logits)
    # float32 cannot tell all of the scores apart, but it never turns their order around.
    assert [one.score for one in answer] == pytest.approx([wanted[i] for i in order], abs=1e-6)
    assert sorted(int(one.label) for one in answer) == list(range(len(logits)))


def test_the_best_come_first_and_ties_keep_the_models_order() -> None:
    answer = classes(classifier("ash", "birch", "cedar", "dogwood"), [1, 2, 1, 2])
    assert [one.label for one in answer] == ["birch", "dogwood", "ash", "cedar"]


@pytest.mark.parametrize(
    ("activation", "scores"),
    [("none", [0.75, 0.5, 0.25]), ("sigmoid", [0.679179, 0.622459, 0.562177])],
)
def test_other_activations_are_the_models_choice(activation: str, scores: list[float]) -> None:
    answer = classes(classifier("a", "b", "c", activation=activation), [0.25, 0.5, 0.75])
    assert [one.score for one in answer] == scores
    assert [one.label for one in answer] == ["c", "b", "a"]


def test_a_sigmoid_of_any_size_stays_a_score() -> None:
    answer = classes(classifier(activation="sigmoid"), [-1e4, 0, 1e4])
    assert [one.score for one in answer] == [1.0, 0.5, 0.0]


def test_as_many_classes_are_named_as_were_asked_for() -> None:
    spec = classifier(top_k=3)
    values = np.arange(2000) / 100
    assert len(classes(spec, values)) == 3
    assert len(classes(spec, values, Params(top_k=7))) == 7
    assert len(classes(spec, values, Params(top_k=1000))) == 1000
    assert len(classes(classifier(), [1, 2], Params(top_k=7))) == 2


def test_only_the_producer_drops_unsure_classes() -> None:
    spec = classifier("a", "b", "c", activation="none", confidence=0.9)
    values = [0.6, 0.3, 0.1]
    assert len(classes(spec, values)) == 3
    assert [one.label for one in classes(spec, values, Params(confidence=0.3))] == ["a", "b"]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1, 1), (1, 1, 4)])
def test_dimensions_of_one_mean_nothing(shape: tuple[int, ...]) -> None:
    assert classes(classifier(), np.arange(4).reshape(shape))[0].label == "3"


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 2), (0,), ()])
def test_outputs_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Reject, match="4 values") as caught:
        classes(classifier("a", "b", "c", "d"), np.zeros(shape))
    assert caught.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_not_a_number_is_refused(activation: str) -> None:
    with pytest.raises(Reject) as caught:
        classes(classifier(activation=activation), [0.1, np.nan, 0.2])
    assert caught.value.code is Code.MODEL_FAILED


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(Reject, match="finite"):
        classes(classifier(), [0, np.inf])


def test_logits_are_not_taken_for_scores() -> None:
    with pytest.raises(Reject, match="activation"):
        classes(classifier(activation="none"), [4.0, 0.5])


def test_the_right_output_is_taken_by_name() -> None:
    outputs = {"embedding": np.ones(9), "scores": np.array([0.0, 1.0])}
    features = load_decoder(classifier("a", "b", tensor="scores")).reduce(outputs)
    assert features["classes"].tolist() == [1, 0]
    with pytest.raises(Reject, match="embedding, scores"):
        load_decoder(classifier("a", "b")).reduce(outputs)


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"scores": np.zeros(3), "classes": np.zeros(2)},
        {"scores": np.ones(1), "classes": np.array([2])},
    ],
)
def test_features_of_something_else_are_refused(features: dict[str, np.ndarray]) -> None:
    with pytest.raises(FeaturesError):
        load_decoder(classifier("a", "b")).answer(features, Params(), ANYWHERE, 1, 1)
