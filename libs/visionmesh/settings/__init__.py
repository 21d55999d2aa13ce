"""Every setting of every service: typed, described, validated at start, passed in.

Read from ``mesh.yaml`` (``--file``, or ``VISIONMESH_FILE``) and from the environment, which wins:
``VISIONMESH_NATS_URL``, ``VISIONMESH_INGEST__PORT`` and so on, two underscores between the levels.
"""

from __future__ import annotations

import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ByteSize, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from visionmesh.durations import Duration
from visionmesh.errors import Code, ConfigurationError
from visionmesh.faults import first_fault
from visionmesh.settings.ingest import IngestSettings
from visionmesh.settings.section import MEBIBYTE, Device, DeviceSettings, Section, ServiceSettings
from visionmesh.settings.servers import require_server

__all__ = [
    "MEBIBYTE",
    "DeviceSettings",
    "EventsSettings",
    "InferSettings",
    "IngestSettings",
    "PostprocessSettings",
    "PreprocessSettings",
    "Section",
    "ServiceSettings",
    "Settings",
    "TracingSettings",
    "load_settings",
    "require_server",
]


class PreprocessSettings(DeviceSettings):
    device: Device = "cpu"
    """Where JPEGs are decoded and pictures resized."""
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    max_pixels: Annotated[int, Field(ge=1)] = 200_000_000
    """Of the original; a picture that says it has more is refused before it is unpacked."""


class InferSettings(DeviceSettings):
    """Models say how many engines they want, and on which device."""

    device_memory_bytes: Annotated[ByteSize, Field(gt=0)] | None = None
    """Of each GPU, for all models of the process; those that are idle give way."""
    device_memory_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The same as a share of what the GPU has; the smaller of the two holds."""


class PostprocessSettings(DeviceSettings):
    device: Device = "cpu"
    """Where boxes are decoded."""


class EventsSettings(Section):
    """The durable streams."""

    max_messages: Annotated[int, Field(ge=1)] = 100_000
    max_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 4096 * MEBIBYTE
    ack_wait: Duration = timedelta(seconds=30)
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 8
    hop_ack_wait: Duration = timedelta(seconds=5)
    """Of the memory streams between the stages."""
    results_age: Duration = timedelta(hours=24)
    results_messages: Annotated[int, Field(ge=1)] = 1_000_000
    replicas: Annotated[int, Field(ge=1, le=5)] = 1


class TracingSettings(Section):
    sample: Annotated[float, Field(ge=0.0, le=1.0, description="share of images traced")] = 1.0
    otlp_endpoint: str | None = None
    """``OTEL_EXPORTER_OTLP_ENDPOINT`` is read when this is absent."""
    keep_bytes: Annotated[int, Field(ge=0)] = 64 * MEBIBYTE
    """Spans kept in the state folder of an embedded mesh for `visionmesh trace`; 0: none."""


class Settings(BaseSettings):
    """The settings of one mesh, or of one service of it."""

    model_config = SettingsConfigDict(
        env_prefix="VISIONMESH_",
        env_nested_delimiter="__",
        env_parse_none_str="null",
        frozen=True,
        extra="forbid",
    )

    mesh: str = "default"
    """The name of the mesh; shared-memory files carry it."""
    nats_url: str = "nats://127.0.0.1:4222"
    redis_url: str | None = None
    """``redis://host:port``; without it nothing is cached."""
    node: str = Field(
        default_factory=lambda: re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().lower())[:63]
    )
    """The lane of this host: references to its shared memory resolve only here."""
    host: str = "127.0.0.1"
    """The address that HTTP listens on."""
    state_dir: Path = Path.home() / ".local" / "state" / "visionmesh"
    shm_dir: Path = Path("/dev/shm")
    events: EventsSettings = EventsSettings()
    tracing: TracingSettings = TracingSettings()
    ingest: IngestSettings = IngestSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    infer: InferSettings = InferSettings()
    postprocess: PostprocessSettings = PostprocessSettings()

    @field_validator("nats_url", "redis_url")
    @classmethod
    def _name_a_server(cls, url: str | None, info: ValidationInfo) -> str | None:
        return url if url is None else require_server(str(info.field_name), url)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from ``path``, the environment and ``overrides`` (the last two win).

    Raises
    ------
    ConfigurationError
        If the file is not YAML or a value is not as it must be; the message names the field.
    """
    try:
        values = yaml.safe_load(path.read_text()) or {} if path is not None else {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID, f"{path} cannot be read as YAML: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(Code.SETTINGS_INVALID, f"{path} must hold a mapping of settings.")
    try:
        return Settings(**{**values, **overrides})
    except ValidationError as error:
        raise ConfigurationError(Code.SETTINGS_INVALID, f"setting {first_fault(error)}") from error
