"""The protocol's two interfaces: an application for HTTP, and a server for gRPC."""

from __future__ import annotations

import logging
from datetime import timedelta

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.ingest.door import Door
from services.ingest.gateway import Gateway
from services.ingest.models import Models
from services.ingest.oip.inference import Inference
from services.ingest.oip.messages import SERVICE, Messages
from services.ingest.oip.methods import Methods
from services.ingest.oip.open_calls import OpenCalls
from services.ingest.oip.repository import Repository
from services.ingest.oip.rest import Rest
from visionmesh.context import Context
from visionmesh.errors import Code, ConfigurationError
from visionmesh.hosts import with_port
from visionmesh.http import GRACE, App
from visionmesh.settings.ingest import TlsSettings

_PING_EVERY = timedelta(seconds=10)
"""Clients may ask so often whether the connection still stands."""

log = logging.getLogger(__name__)


class OpenInference:
    """The protocol, by both wires."""

    def __init__(self, *, context: Context, gateway: Gateway, door: Door, models: Models) -> None:
        self._context = context
        self._settings = context.settings.ingest
        inference = Inference(context=context, gateway=gateway)
        repository = Repository(models=models)
        self.app: App = Rest(
            inference=inference,
            repository=repository,
            gateway=gateway,
            max_bytes=self._settings.max_request_bytes,
        ).build_app()
        self._messages = Messages()
        self._methods = Methods(
            inference=inference,
            repository=repository,
            gateway=gateway,
            door=door,
            messages=self._messages,
            settings=self._settings,
        )
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> None:
        """Listen for gRPC, where the settings name a port; HTTP is served by the service.

        Raises
        ------
        ConfigurationError
            If the port is taken, the address is not of this host, or a file of TLS is no good.
        """
        port = self._settings.grpc_port
        if port is None:
            return
        self._server = self._build_server()
        host = self._context.settings.host
        bound = self._listen(self._server, with_port(host, port))
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._context.nodes.update(grpc=with_port(host, bound))
        log.info("gRPC at %s", with_port(host, bound))

    async def stop(self) -> None:
        """Accept nothing more, let requests in hand end, cancel those that do not, and close."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(GRACE.total_seconds())
            self._server = None

    def _build_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[OpenCalls(but=SERVICE, patience=self._settings.body_timeout)],
            options=[
                ("grpc.max_receive_message_length", self._settings.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_idle_ms", _milliseconds(self._settings.stream_timeout)),
                # A port that is taken is an error, and not shared with another mesh.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(_PING_EVERY)),
            ],
        )
        server.add_generic_rpc_handlers((self._methods.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        pool = self._messages.pool
        pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        pool.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool=pool
        )
        return server

    def _listen(self, server: grpc.aio.Server, address: str) -> int:
        tls = self._settings.tls
        try:
            if tls is None:
                bound: int = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, _credentials(tls))
        except RuntimeError as error:
            raise ConfigurationError(
                Code.SETTINGS_INVALID,
                f"gRPC cannot listen on {address}; is the port taken? Choose another one with "
                "VISIONMESH_INGEST__GRPC_PORT, 0 for any free one, or null for none.",
            ) from error
        return bound


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    try:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            Code.SETTINGS_INVALID, f"The files of TLS cannot be read: {error}."
        ) from error
    return grpc.ssl_server_credentials([pair])
