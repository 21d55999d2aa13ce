"""The names on the bus: streams, subjects, and the tokens that they are made of."""

from __future__ import annotations

import hashlib
import re

from visionmesh.errors import Code, Refused

EVENTS = "EVENTS"
IMAGES = "IMAGES"
TENSORS = "TENSORS"
OUTPUTS = "OUTPUTS"
RESULTS = "RESULTS"
DEAD = "DEAD"
MQTT = "$MQTT_msgs"
"""The stream in which the server's MQTT gateway keeps what it has confirmed."""
MODELS_BUCKET = "vm_models"
ARTIFACTS_BUCKET = "vm_artifacts"
PLANS_BUCKET = "vm_plans"
NODES_BUCKET = "vm_nodes"
CANCEL = "vm.cancel"
"""Of core NATS: the reply subjects of requests that nobody waits for any more."""

MQTT_FRAMES = "vm.mqtt.>"
"""Of the topics ``vm/mqtt/<model>/<source>``. On those of events the server would tell the camera
that a frame has arrived, and EVENTS may have refused it."""

ANY_LANE = "any"
"""The lane of messages that carry their payload and may be worked on by any node."""

_TOKEN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CLEAN_ID = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_~=+:@-]{0,127}")


def is_token(text: str) -> bool:
    """Say whether ``text`` can be the name of a model, a source or a node."""
    return _TOKEN.fullmatch(text) is not None


def require_token(kind: str, text: str) -> str:
    """Return ``text`` if it is a valid name of a ``kind``; else raise `Refused` (invalid_name)."""
    if is_token(text):
        return text
    raise Refused(Code.INVALID_NAME, name_fault(kind, text))


def name_fault(kind: str, text: str) -> str:
    """Say why ``text`` is no name of a ``kind``, and what is."""
    shown = text if len(text) <= 40 else text[:40] + "…"  # noqa: PLR2004 - what fits a line
    return (
        f"{shown!r} is not a valid {kind} name: use 1 to 63 of a-z, 0-9, '-' and '_', "
        "and begin with a letter or a digit."
    )


def id_token(event_id: str) -> str:
    """Return the subject token of an event's id: the id itself if it is clean, else its hash."""
    if _CLEAN_ID.fullmatch(event_id):
        return event_id
    return "h-" + hashlib.sha256(event_id.encode()).hexdigest()[:40]


def shadow_source(source: str) -> str:
    """Return the source under which a shadow's results of images of ``source`` are stored."""
    name = f"shadow-{source}"
    return name if is_token(name) else "shadow-" + hashlib.sha256(source.encode()).hexdigest()[:40]


def event(model: str, source: str) -> str:
    return f"vm.events.{model}.{source}"


def image(model: str, lane: str) -> str:
    return f"vm.images.{model}.{lane}"


def tensor(model: str, lane: str) -> str:
    return f"vm.tensors.{model}.{lane}"


def output(model: str, lane: str) -> str:
    return f"vm.outputs.{model}.{lane}"


def result(model: str, source: str, event_id: str) -> str:
    return f"vm.results.{model}.{source}.{id_token(event_id)}"


def dead(stage: str, model: str) -> str:
    return f"vm.dead.{stage}.{model}"
