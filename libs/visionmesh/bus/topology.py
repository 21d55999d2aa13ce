"""The streams and consumers of a mesh: declared here, compared with what the server keeps."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from nats.aio.client import Client

from visionmesh import subjects
from visionmesh.bus import api
from visionmesh.errors import Code, ConfigurationError
from visionmesh.settings import EventsSettings, Settings

HOP_MAX_AGE = timedelta(minutes=10)
"""A reference that nobody took for so long is stale; its event is delivered again by then."""
DEDUPLICATION = timedelta(minutes=2)
DEAD_AGE = timedelta(days=7)
DEAD_BYTES = 2 << 30
LANE_IDLE = timedelta(hours=1)
"""A lane's consumer is removed when its node has not asked for work for so long."""
MQTT_IN_HAND = 64
"""Frames that are on their way from MQTT to EVENTS, or wait there for room in it."""
NO_MODEL = "vm.events._.none"
"""Keeps EVENTS declared while no model is pushed; `_` is no valid name of a model."""

Config = dict[str, Any]


def _nanoseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1e9)


def stream_configs(settings: EventsSettings) -> tuple[Config, ...]:
    """Return all streams but EVENTS, whose subjects follow the models."""
    hop: Config = {
        "retention": "workqueue",
        "storage": "memory",
        "max_age": _nanoseconds(HOP_MAX_AGE),
    }
    return (
        {"name": subjects.IMAGES, "subjects": ["vm.images.>"], **hop},
        {"name": subjects.TENSORS, "subjects": ["vm.tensors.>"], **hop},
        {"name": subjects.OUTPUTS, "subjects": ["vm.outputs.>"], **hop},
        {
            "name": subjects.RESULTS,
            "subjects": ["vm.results.>"],
            "retention": "limits",
            "storage": "file",
            "max_age": _nanoseconds(settings.results_age),
            "max_msgs": settings.results_messages,
            "allow_direct": True,
            "num_replicas": settings.replicas,
        },
        {
            "name": subjects.DEAD,
            "subjects": ["vm.dead.>"],
            "retention": "limits",
            "storage": "file",
            "max_age": _nanoseconds(DEAD_AGE),
            "max_bytes": DEAD_BYTES,
            "allow_direct": True,
            "num_replicas": settings.replicas,
        },
    )


def events_config(settings: EventsSettings, models: Iterable[str]) -> Config:
    """Return EVENTS, which listens to pushed models only: an event for another one is refused."""
    return {
        "name": subjects.EVENTS,
        "subjects": [NO_MODEL, *(f"vm.events.{model}.*" for model in sorted(models))],
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "max_msgs": settings.max_messages,
        "max_bytes": settings.max_bytes,
        "duplicate_window": _nanoseconds(DEDUPLICATION),
        "allow_direct": True,
        "num_replicas": settings.replicas,
    }


def events_consumer(model: str, *, window: int, settings: EventsSettings) -> Config:
    """Return the durable of one model on EVENTS; ``window`` images are in flight at most."""
    return {
        "durable_name": f"ingest_{model}",
        "filter_subject": f"vm.events.{model}.*",
        "ack_policy": "explicit",
        "ack_wait": _nanoseconds(settings.ack_wait),
        "max_ack_pending": window,
        "max_deliver": -1,
    }


def hop_consumer(name: str, subject: str, *, settings: EventsSettings) -> Config:
    """Return the durable of one lane of a memory stream."""
    return {
        "durable_name": name,
        "filter_subject": subject,
        "ack_policy": "explicit",
        "ack_wait": _nanoseconds(settings.hop_ack_wait),
        "max_ack_pending": -1,
        "max_deliver": -1,
        "inactive_threshold": _nanoseconds(LANE_IDLE),
    }


def mqtt_stream(settings: Settings) -> Config:
    """Return the stream of the server's MQTT gateway, which takes no more than we can keep.

    The server makes it itself for the first client, without bounds, and confirms a frame when it
    is stored here. Where this one is full, it hangs up on the camera, which sends the frame again.
    """
    return {
        "name": subjects.MQTT,
        "subjects": ["$MQTT.msgs.>"],
        "retention": "interest",
        "storage": "file",
        "discard": "new",
        "max_bytes": settings.ingest.mqtt.max_bytes,
        "num_replicas": settings.events.replicas,
    }


def mqtt_consumer(settings: EventsSettings) -> Config:
    """Return the durable of all frames by MQTT; while it is there, none goes by unseen."""
    return {
        "durable_name": "vm_mqtt",
        "filter_subject": f"$MQTT.msgs.{subjects.MQTT_FRAMES}",
        "ack_policy": "explicit",
        "ack_wait": _nanoseconds(settings.ack_wait),
        "max_ack_pending": MQTT_IN_HAND,
        "max_deliver": -1,
    }


async def ensure_mqtt(nc: Client, settings: Settings) -> str:
    """Declare stream and consumer of the MQTT gateway; return the consumer's name."""
    await ensure_stream(nc, mqtt_stream(settings))
    return await ensure_consumer(nc, subjects.MQTT, mqtt_consumer(settings.events))


async def ensure_stream(nc: Client, config: Config) -> None:
    """Create the stream, or make it as declared.

    Raises
    ------
    ConfigurationError
        If the server keeps a stream that differs and cannot be changed (mesh_incompatible).
    """
    name = config["name"]
    try:
        answer = await api.request(nc, f"STREAM.CREATE.{name}", config)
    except api.ApiError as error:
        if error.number != api.STREAM_NAME_IN_USE:
            raise
        answer = await api.request(nc, f"STREAM.INFO.{name}")
        if _differences(config, answer["config"]):
            answer = await api.request(nc, f"STREAM.UPDATE.{name}", {**answer["config"], **config})
    _require_same(f"stream {name}", config, answer["config"])


async def ensure_consumer(nc: Client, stream: str, config: Config) -> str:
    """Create the durable consumer, or make it as declared; return its name."""
    name: str = config["durable_name"]
    answer = await api.request(
        nc, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}
    )
    _require_same(f"consumer {name} on {stream}", config, answer["config"])
    return name


async def ensure_streams(nc: Client, settings: EventsSettings) -> None:
    """Declare every stream but EVENTS."""
    for config in stream_configs(settings):
        await ensure_stream(nc, config)


def _differences(declared: Config, kept: Config) -> dict[str, tuple[Any, Any]]:
    return {
        key: (value, kept.get(key)) for key, value in declared.items() if kept.get(key) != value
    }


def _require_same(what: str, declared: Config, kept: Config) -> None:
    for key, (wanted, found) in _differences(declared, kept).items():
        raise ConfigurationError(
            Code.MESH_INCOMPATIBLE,
            f"The {what} has {key}={found!r} where {wanted!r} is declared: "
            "is the server too old, or does another mesh use it?",
        )
