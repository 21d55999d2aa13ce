"""What was recognised, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from visionmesh.contracts import Answer, ClassScore, Detection, Region

_NOUN = re.compile(r"[a-z]+(?:[ -][a-z]+)*")
"""Labels that a sentence can bend; part numbers and the like stay as they are."""
_IRREGULAR = {
    "child": "children",
    "fish": "fish",
    "foot": "feet",
    "knife": "knives",
    "leaf": "leaves",
    "man": "men",
    "mouse": "mice",
    "person": "people",
    "scissors": "scissors",
    "sheep": "sheep",
    "skis": "skis",
    "tooth": "teeth",
    "woman": "women",
}
_AN = ("a", "e", "i", "o", "u")


def sentence(answer: Answer, *, confidence: float, alternatives: bool = False) -> str:
    """Say what ``answer`` holds, the most certain first.

    ``confidence`` is the least score of an object; with ``alternatives`` all classes are named.
    """
    said = []
    if answer.classes:
        judged = answer.heatmap is not None
        said.append(_class(answer.classes, judged=judged, alternatives=alternatives))
    if answer.detections is not None:
        said.append(_objects(answer.detections, confidence))
    if answer.regions:
        said.append(_areas(answer.regions))
    if answer.embedding is not None:
        said.append(f"The image is described by {len(answer.embedding)} numbers; see /api/embed.")
    return " ".join(said) or "Nothing was found."


def numbered(sentences: Sequence[str]) -> str:
    """Return the sentences of several images, a line for each."""
    if len(sentences) == 1:
        return sentences[0]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(sentences, 1))


def words(text: str) -> list[str]:
    """Return ``text`` in parts that begin with their white space, as language models write."""
    return re.findall(r"\s*\S+\s*\Z|\s*\S+", text)


def _objects(detections: Sequence[Detection], confidence: float) -> str:
    if not detections:
        return f"Nothing was found above {confidence:g}."
    scores: dict[str, list[float]] = {}
    for one in sorted(detections, key=lambda one: -one.score):
        scores.setdefault(one.label, []).append(one.score)
    return _listed([f"{_count(label, len(s))} ({_shown(s)})" for label, s in scores.items()]) + "."


def _class(classes: Sequence[ClassScore], *, judged: bool, alternatives: bool) -> str:
    best, *others = classes
    what = f"The image is {best.label}" if judged else f"This is {_one(best.label)}"
    text = f"{what} ({best.score:.2f})."
    if alternatives and others:
        text += f" Less likely: {_listed([f'{o.label} ({o.score:.2f})' for o in others])}."
    return text


def _areas(regions: Sequence[Region]) -> str:
    parts = [f"{region.share:.0%} {region.label}" for region in regions]
    return f"The image shows {_listed(parts)}."


def _one(label: str) -> str:
    if not _NOUN.fullmatch(label):
        return label
    return f"{'an' if label.startswith(_AN) else 'a'} {label}"


def _count(label: str, number: int) -> str:
    if not _NOUN.fullmatch(label):
        return f"{number} x {label}"
    return f"{number} {label if number == 1 else _plural(label)}"


def _plural(label: str) -> str:
    before, space, noun = label.rpartition(" ")
    if noun in _IRREGULAR:
        bent = _IRREGULAR[noun]
    elif noun.endswith(("s", "x", "z", "ch", "sh")):
        bent = f"{noun}es"
    elif noun.endswith("y") and noun[-2:-1] not in _AN:
        bent = f"{noun[:-1]}ies"
    else:
        bent = f"{noun}s"
    return before + space + bent


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _shown(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.2f}" for score in scores)
