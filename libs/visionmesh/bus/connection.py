"""One connection to the mesh's NATS server, which it finds again for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client

from visionmesh.bus import api
from visionmesh.errors import Code, ConfigurationError, Refused

MINIMUM_SERVER = (2, 12)
"""Older servers silently ignore consumer fields that they do not know."""
RECONNECT_WAIT = timedelta(milliseconds=250)
SCHEMES = frozenset({"nats", "tls", "ws", "wss"})
PENDING_BYTES = 96 << 20
"""What may wait in the client for the socket: at least one image of the largest size."""

log = logging.getLogger(__name__)


class Connection:
    """A NATS client whose state can be awaited, and that tells who asks when it came back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._up = asyncio.Event()
        self._returned: list[Callable[[], None]] = []
        self._ended: list[Callable[[], None]] = []
        self._closing = False
        self._said = ""
        """Of a server that is away, the last time."""

    @classmethod
    async def open(
        cls, url: str, *, name: str, within: timedelta = timedelta(seconds=6)
    ) -> Connection:
        """Connect to ``url`` and check that the server can carry a mesh.

        Raises
        ------
        Refused
            If no server answers in time (mesh_unreachable).
        ConfigurationError
            If ``url`` is none, or the server is older than `MINIMUM_SERVER` or runs without
            JetStream.
        """
        _require_url(url)
        connection = cls(Client())
        try:
            async with asyncio.timeout(within.total_seconds()):
                await connection._connect(url, name)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await connection.close()
            raise Refused(
                Code.MESH_UNREACHABLE,
                f"No NATS server answers at {url}: start one with `visionmesh up`, "
                "or name another with --nats.",
            ) from error
        try:
            await connection._check_server(url)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _connect(self, url: str, name: str) -> None:
        async def reconnected() -> None:
            self._said = ""
            log.info("connected to NATS again")
            self._up.set()
            for callback in self._returned:
                callback()

        async def disconnected() -> None:
            self._up.clear()

        async def closed() -> None:
            if not self._closing:
                log.error("the NATS server ended the connection for good")
                self._up.set()
                for callback in self._ended:
                    callback()

        await self.client.connect(
            url,
            name=name,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            closed_cb=closed,
            error_cb=self._failed,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT.total_seconds(),
            pending_size=PENDING_BYTES,
            allow_reconnect=True,
            connect_timeout=5,
        )
        self._up.set()

    async def _failed(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if self._up.is_set():
            log.warning("NATS: %s", text)
        elif text != self._said:  # each of the tries, four in a second, may say the same
            self._said = text
            log.warning("NATS: %s; trying again", text)

    async def _check_server(self, url: str) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < MINIMUM_SERVER:
            wanted = ".".join(map(str, MINIMUM_SERVER))
            raise ConfigurationError(
                Code.MESH_INCOMPATIBLE,
                f"The NATS server at {url} is {version.major}.{version.minor}; "
                f"visionmesh needs {wanted} or newer.",
            )
        try:
            await api.request(self.client, "INFO")
        except (api.ApiError, Refused) as error:
            raise ConfigurationError(
                Code.MESH_INCOMPATIBLE,
                f"The NATS server at {url} runs without JetStream: start it with -js.",
            ) from error

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return int(self.client.max_payload)

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called whenever the connection was lost and is there again.

        Returns what undoes this.
        """
        self._returned.append(callback)
        return lambda: self._returned.remove(callback)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called if the server ends the connection and it is not sought again."""
        self._ended.append(callback)

    async def wait_up(self) -> None:
        """Return as soon as the connection is there; raise `Refused` if it never will be."""
        await self._up.wait()
        if self.client.is_closed:
            raise Refused(Code.MESH_UNREACHABLE, "The NATS server has ended the connection.")

    async def send(
        self,
        subject: str,
        body: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a message that nobody confirms; one that cannot be sent now is dropped.

        Acknowledgements and heartbeats go this way: losing one leads to a redelivery.
        """
        try:
            await self.client.publish(subject, body, reply=reply, headers=headers)
        except (nats.errors.OutboundBufferLimitError, nats.errors.ConnectionClosedError) as error:
            log.warning("not sent to %s: %s", subject, error)

    async def close(self) -> None:
        """Send what waits, then close."""
        self._closing = True
        if self.client.is_connected:
            try:
                await self.client.flush(timeout=2)
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("closing without a flush: %s", error)
        try:
            await self.client.close()
        except OSError as error:
            # nats-py sends what still waits, to a server that may just have gone.
            log.warning("closed without sending all: %s", error)


def _require_url(url: str) -> None:
    """Raise `ConfigurationError` unless ``url`` names a host, and a port or the usual one."""
    try:
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        usable = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            Code.SETTINGS_INVALID, f"{url!r} is no URL of a NATS server: write nats://host:port."
        )
