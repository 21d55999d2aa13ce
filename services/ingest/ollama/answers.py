"""What was recognised, as the text of a language model and in lines of JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from services.ingest.ollama.requests import Asked
from services.ingest.ollama.sentences import numbered, sentence, words
from visionmesh.contracts import Answer, Result
from visionmesh.errors import Code, Reject
from visionmesh.models.record import ModelRecord

_MILLISECOND = 1_000_000
"""Nanoseconds."""

Fields = dict[str, Any]
Said = Callable[[str], Fields]
"""Wraps a piece of text as the request's kind of answer has it."""


def generated(text: str) -> Fields:
    return {"response": text}


def chatted(text: str) -> Fields:
    return {"message": {"role": "assistant", "content": text}}


@dataclass(frozen=True, kw_only=True)
class Times:
    """Of a request, in nanoseconds."""

    total: int
    load: int


def text_of(asked: Asked, record: ModelRecord, results: Sequence[Result]) -> str:
    """Return what is said of the images: a sentence for each, or JSON where that is asked for.

    Raises
    ------
    Reject
        (invalid_request) if a schema requires what this model's answers do not have.
    """
    if asked.format:
        schema = asked.format if isinstance(asked.format, dict) else {}
        answers = [_fields(result, schema) for result in results]
        return to_json(answers[0] if len(answers) == 1 else answers).decode()
    params = asked.params
    return numbered(
        [
            sentence(
                result,
                confidence=_confidence(record, result, params.confidence),
                alternatives=params.top_k is not None,
            )
            for result in results
        ]
    )


def whole(name: str, said: Said, text: str, results: Sequence[Result], times: Times) -> Fields:
    """Return the one object of an answer that is not streamed."""
    return _head(name) | said(text) | _tail(text, results, times)


def lines(
    name: str, said: Said, text: str, results: Sequence[Result], times: Times
) -> Iterator[Fields]:
    """Yield an object for each word, and the last with what it took."""
    for word in words(text):
        yield _head(name) | said(word) | {"done": False}
    yield _head(name) | said("") | _tail(text, results, times)


def loaded(name: str, said: Said, reason: str) -> Fields:
    """Return the answer to a request without images, which had a model loaded or unloaded."""
    return _head(name) | said("") | {"done": True, "done_reason": reason}


def _head(name: str) -> Fields:
    return {"model": name, "created_at": datetime.now(UTC).isoformat()}


def _tail(text: str, results: Sequence[Result], times: Times) -> Fields:
    return {
        "done": True,
        "done_reason": "stop",
        "total_duration": times.total,
        "load_duration": times.load,
        "prompt_eval_count": len(results),
        "prompt_eval_duration": _took("preprocess", results),
        "eval_count": len(words(text)),
        "eval_duration": _took("infer", results),
    }


def _took(stage: str, results: Sequence[Result]) -> int:
    return int(sum(result.timings.get(stage, 0.0) for result in results) * _MILLISECOND)


def _confidence(record: ModelRecord, result: Result, asked: float | None) -> float:
    if asked is not None:
        return asked
    version = record.versions.get(result.version or 0)
    return (version.output if version else record.spec.output).confidence


def _fields(result: Result, schema: dict[str, Any]) -> Fields:
    """Return what was recognised; of that what ``schema`` names at its top level."""
    named = set(Answer.model_fields)
    fields: Fields = from_json(result.model_dump_json(include=named, exclude_none=True))
    properties, required = schema.get("properties"), schema.get("required")
    missing = set(map(str, required if isinstance(required, list) else ())) - fields.keys()
    if missing:
        raise Reject(
            Code.INVALID_REQUEST,
            f"format requires {_shown(missing)}; what this model recognises is in "
            f"{_shown(fields.keys())}.",
        )
    if not isinstance(properties, dict) or not properties:
        return fields
    return {name: value for name, value in fields.items() if name in properties}


def _shown(names: Any) -> str:
    return ", ".join(repr(name[:50]) for name in sorted(names)[:10])
