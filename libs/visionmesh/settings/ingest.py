"""The settings of the access layer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from visionmesh.durations import Duration
from visionmesh.hosts import require_host
from visionmesh.settings.section import MEBIBYTE, Section, ServiceSettings

Port = Annotated[int, Field(ge=0, le=65535)]


class TlsSettings(Section):
    """PEM files; HTTP and gRPC speak TLS 1.2 or later then."""

    certificate: Path
    key: Path


class UrlSettings(Section):
    """From where images may be fetched that a request names by their URL."""

    hosts: tuple[str, ...] = ()
    """Names, ``*.example.org`` for all below one; empty: no URL is fetched."""
    timeout: Duration = timedelta(seconds=10)
    """For the whole of a fetch, redirects included."""


class MqttSettings(Section):
    """Cameras that publish by MQTT 3.1.1 to the gateway of the NATS server."""

    port: Port | None = None
    """Of the embedded server; `None`: it has no gateway."""
    host: Annotated[str, AfterValidator(require_host)] = "127.0.0.1"
    """Where that listens. Cameras show no key: whoever reaches it may publish frames."""
    max_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 1024 * MEBIBYTE
    """Frames that were taken from cameras and are not events yet; cameras wait beyond."""


class IngestSettings(ServiceSettings):
    port: Annotated[Port, Field(description="of the HTTP interface")] = 8000
    grpc_port: Port | None = 8001
    """Of the Open Inference Protocol by gRPC; 0: any free one, `None`: none."""
    max_image_bytes: Annotated[int, Field(ge=1024)] = 31 * MEBIBYTE
    """The encoded image. A file stream of NATS takes less than 32 MiB, headers included."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 64 * MEBIBYTE
    """A whole request, which may hold several images or tensors."""
    max_bytes_in_hand: Annotated[int, Field(ge=MEBIBYTE)] = 512 * MEBIBYTE
    """Bodies of all requests together; beyond, requests are refused with 503."""
    body_timeout: Duration = timedelta(seconds=30)
    """How long a request's body may take to arrive."""
    stream_timeout: Duration = timedelta(minutes=5)
    """How long a gRPC stream may bring no request, and a connection have no call."""
    request_timeout: Duration = timedelta(seconds=30)
    """How long a synchronous request may take when the client names no deadline."""
    max_requests: Annotated[int, Field(ge=1)] = 256
    """Images of synchronous requests in hand at once; more are refused with 503."""
    tls: TlsSettings | None = None
    keys: Literal["auto", "required", "off"] = "auto"
    """Whether clients need an API key; `auto`: unless ``host`` is a loopback address."""
    urls: UrlSettings = UrlSettings()
    mqtt: MqttSettings = MqttSettings()
