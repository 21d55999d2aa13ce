"""A whole mesh on this host: embedded or given servers, and the four services as processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Self

from visionmesh.bus import Connection, topology
from visionmesh.context import shm_prefix
from visionmesh.embedded import NatsServer, Server, ValkeyServer, free_port, require_free
from visionmesh.hosts import with_port
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry
from visionmesh.processes import ChildProcess, Output
from visionmesh.readiness import until_ready
from visionmesh.replicas import replicas_of
from visionmesh.settings import IngestSettings, Settings
from visionmesh.state import MeshRecord, RunningProcess, StateFolder, end_leftovers
from visionmesh.supervisor import Keeper, LogFiles, Restartable, child_environment
from visionmesh.tensors import reap

SERVICES = ("ingest", "preprocess", "infer", "postprocess")
"""In the order in which they are drained: each hands on what it holds to a living next one."""

_GRACE = timedelta(seconds=35)
"""Longer than a service takes to finish the images that it holds (`stage.DRAIN`), then the requests
that wait for answers, then its spans."""


class LocalMesh:
    """A mesh that runs while its ``async with`` block does.

    Parameters
    ----------
    state
        The folder for everything that it keeps; one mesh at a time.
    settings
        Of the services; URLs, name and state folder are replaced by this mesh's own. By default
        those of the environment, with HTTP on any free port.
    models
        Model folders to push before the services start.
    nats_url, redis_url
        Servers that run elsewhere; without them embedded ones are started.
    nats_port
        Of the embedded NATS server; 0 takes any free one, as in ``settings.ingest`` ``port``,
        ``grpc_port`` and ``mqtt.port`` do.
    output
        Takes what the processes print; by default it goes to files in ``state/logs``.

    Raises
    ------
    ConfigurationError
        On entering, if a server or a service does not come up; nothing is left running then.
    """

    def __init__(
        self,
        *,
        state: Path,
        settings: Settings | None = None,
        models: Sequence[Path] = (),
        nats_url: str | None = None,
        redis_url: str | None = None,
        nats_port: int = 0,
        output: Output | None = None,
    ) -> None:
        self._folder = StateFolder(state.absolute())
        self.settings = settings or Settings(ingest=IngestSettings(port=0, grpc_port=0))
        self._models = models
        self._nats_url = nats_url
        self._redis_url = redis_url
        self._nats_port = nats_port
        self._files = LogFiles(self._folder.logs)
        self._output = output or self._files
        self._mqtt_port: int | None = None
        self._hurry = asyncio.Event()
        self._servers: list[Keeper] = []
        self._services: dict[str, list[Keeper]] = {service: [] for service in SERVICES}
        self._held = ExitStack()

    @property
    def nats_url(self) -> str:
        return self.settings.nats_url

    @property
    def redis_url(self) -> str | None:
        return self.settings.redis_url

    @property
    def http_url(self) -> str:
        scheme = "http" if self.settings.ingest.tls is None else "https"
        return f"{scheme}://{with_port(self.settings.host, self.settings.ingest.port)}"

    @property
    def grpc_url(self) -> str | None:
        port = self.settings.ingest.grpc_port
        return None if port is None else with_port(self.settings.host, port)

    @property
    def mqtt_url(self) -> str | None:
        """The gateway of the embedded NATS server, if it has one."""
        mqtt = self.settings.ingest.mqtt
        return None if mqtt.port is None else f"mqtt://{with_port(mqtt.host, mqtt.port)}"

    @property
    def pids(self) -> dict[str, list[int]]:
        """The processes that run now, by service, and `nats` and `valkey` if embedded."""
        return {
            name: [keeper.pid for keeper in keepers if keeper.pid is not None]
            for name, keepers in self._keepers.items()
        }

    @property
    def restarts(self) -> dict[str, int]:
        """How often each service or server was started again."""
        return {name: sum(k.restarts for k in keepers) for name, keepers in self._keepers.items()}

    @property
    def _keepers(self) -> dict[str, list[Keeper]]:
        return {**self._services, **{keeper.name: [keeper] for keeper in self._servers}}

    def hurry(self) -> None:
        """Let a stop that goes on kill what has not ended yet."""
        self._hurry.set()

    async def __aenter__(self) -> Self:
        self._held.enter_context(self._folder.hold())
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if any(self.pids.values()):
            self._report("ending")
        for service in SERVICES:
            keepers = self._services[service]
            await asyncio.gather(*(k.stop(grace=_GRACE, hurry=self._hurry) for k in keepers))
        for keeper in reversed(self._servers):
            await keeper.stop(grace=_GRACE, hurry=self._hurry)
        reap(self.settings.shm_dir, prefix=shm_prefix(self.settings))
        self._folder.clear()
        self._files.close()
        self._held.close()

    async def _start(self) -> None:
        if left := self._folder.read():
            end_leftovers(left.processes)
            reap(left.shm_dir, prefix=left.shm_prefix)
        for port in (self.settings.ingest.port, self.settings.ingest.grpc_port):
            if port:
                require_free("ingest", self.settings.host, port)
        await self._start_servers()
        self.settings = self._own_settings()
        self._write_record()
        connection = await Connection.open(self.nats_url, name="visionmesh up")
        try:
            if self.mqtt_url is not None:
                # At once: what the gateway takes before somebody is to get it would be lost.
                await topology.ensure_mqtt(connection.client, self.settings)
            registry = Registry(connection.client)
            # The folders are what this mesh is to serve, whatever their versions were before.
            pushed = [
                await registry.push(load_folder(model), replace=True) for model in self._models
            ]
            await self._start_services()
            keepers = [keeper for group in self._services.values() for keeper in group]
            names = {record.spec.name for record in pushed}
            await until_ready(connection.client, keepers, node=self.settings.node, models=names)
        finally:
            await connection.close()

    async def _start_servers(self) -> None:
        if self._nats_url is None:
            server = NatsServer(
                store=self._folder.path / "nats",
                port=self._nats_port,
                mqtt_host=self.settings.ingest.mqtt.host,
                mqtt_port=self.settings.ingest.mqtt.port,
                output=self._output,
            )
            self._nats_url = await self._start_server(server)
            self._mqtt_port = server.mqtt_port
        if self._redis_url is None:
            self._redis_url = await self._start_server(
                ValkeyServer(directory=self._folder.path / "valkey", output=self._output)
            )

    async def _start_server(self, server: Server) -> str:
        keeper = self._keeper(server)
        await keeper.start()
        self._servers.append(keeper)
        return server.url

    def _keeper(self, process: Restartable) -> Keeper:
        return Keeper(process=process, report=self._report, changed=self._write_record)

    def _report(self, text: str) -> None:
        self._output("mesh", text)

    def _own_settings(self) -> Settings:
        given = self.settings
        ports = {
            name: free_port(given.host)
            for name in ("port", "grpc_port")
            if getattr(given.ingest, name) == 0
        }
        mqtt = given.ingest.mqtt.model_copy(update={"port": self._mqtt_port})
        mesh = given.mesh
        if "mesh" not in given.model_fields_set:
            # Two meshes on one host must not take each other's shared memory for their own.
            mesh = hashlib.sha256(str(self._folder.path).encode()).hexdigest()[:8]
        return given.model_copy(
            update={
                "mesh": mesh,
                "nats_url": self._nats_url,
                "redis_url": self._redis_url,
                "state_dir": self._folder.path,
                "ingest": given.ingest.model_copy(update={**ports, "mqtt": mqtt}),
            }
        )

    async def _start_services(self) -> None:
        for service in SERVICES:
            for replica in replicas_of(self.settings, service):
                keeper = self._keeper(
                    ChildProcess(
                        name=replica.name,
                        command=[sys.executable, "-m", f"services.{service}"],
                        environment={**child_environment(replica.settings), **replica.environment},
                        output=self._output,
                    )
                )
                await keeper.start()
                self._services[service].append(keeper)
        self._write_record()

    def _write_record(self) -> None:
        me = RunningProcess.of("mesh", os.getpid())
        assert me is not None
        found = [
            RunningProcess.of(keeper.name, keeper.pid)
            for group in self._keepers.values()
            for keeper in group
            if keeper.pid is not None
        ]
        self._folder.write(
            MeshRecord(
                supervisor=me,
                processes=tuple(process for process in found if process),
                nats_url=self.nats_url,
                redis_url=self.redis_url,
                http_url=self.http_url,
                shm_dir=self.settings.shm_dir,
                shm_prefix=shm_prefix(self.settings),
            )
        )
