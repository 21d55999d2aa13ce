"""What was recognised, in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.ollama.sentences import numbered, sentence, words
from visionmesh.contracts import Answer, ClassScore, Detection, Heatmap, Region, Rle

MASK = Rle(size=(1, 1), counts="1")


def found(**scores: list[float]) -> Answer:
    """Return an answer with so many objects; an underscore stands for a space."""
    return Answer(
        detections=tuple(
            Detection(label=label.replace("_", " "), score=score, box=(0, 0, 1, 1))
            for label, own in scores.items()
            for score in own
        )
    )


def judged(*labels: tuple[str, float], heatmap: bool = False) -> Answer:
    heat = Heatmap(sha256="", width=1, height=1, low=0, high=1) if heatmap else None
    classes = tuple(ClassScore(label=label, score=score) for label, score in labels)
    return Answer(classes=classes, heatmap=heat)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (found(dog=[0.77], cat=[0.84, 0.91]), "2 cats (0.91, 0.84) and 1 dog (0.77)."),
        (found(person=[0.9] * 2), "2 people (0.90, 0.90)."),
        (found(wine_glass=[0.5, 0.5]), "2 wine glasses (0.50, 0.50)."),
        (found(cherry=[0.5, 0.5]), "2 cherries (0.50, 0.50)."),
        (found(toy=[0.4, 0.4]), "2 toys (0.40, 0.40)."),
        (
            found(NG=[0.5, 0.5], c7=[0.3], bus=[0.2]),
            "2 x NG (0.50, 0.50), 1 x c7 (0.30) and 1 bus (0.20).",
        ),
        (found(), "Nothing was found above 0.25."),
        (judged(("cat", 0.93), ("ant", 0.07)), "This is a cat (0.93)."),
        (judged(("ant", 0.93)), "This is an ant (0.93)."),
        (judged(("T_5", 0.93)), "This is T_5 (0.93)."),
        (judged(("anomalous", 0.93), heatmap=True), "The image is anomalous (0.93)."),
        (
            Answer(
                regions=(
                    Region(label="road", share=0.42, mask=MASK),
                    Region(label="sky", share=0.3, mask=MASK),
                )
            ),
            "The image shows 42% road and 30% sky.",
        ),
        (Answer(embedding=(1.0, 2.0)), "The image is described by 2 numbers; see /api/embed."),
        (Answer(), "Nothing was found."),
        (Answer(regions=()), "Nothing was found."),
    ],
)
def test_an_answer_is_a_sentence(answer: Answer, text: str) -> None:
    assert sentence(answer, confidence=0.25) == text


def test_all_classes_are_named_where_they_are_asked_for() -> None:
    answer = judged(("cat", 0.9), ("ant", 0.07), ("bee", 0.03))
    assert sentence(answer, confidence=0.25, alternatives=True) == (
        "This is a cat (0.90). Less likely: ant (0.07) and bee (0.03)."
    )


def test_several_images_are_numbered() -> None:
    assert numbered(["One."]) == "One."
    assert numbered(["One.", "Two."]) == "1. One.\n2. Two."


@given(st.text().filter(str.strip))
def test_the_words_together_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text
