"""Commands that start, end and list the processes of a mesh."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from visionmesh.cli import options
from visionmesh.cli.console import print_json, print_table, screen
from visionmesh.cli.versions import failures, print_failures, print_reasons, size

if TYPE_CHECKING:
    from visionmesh.local import LocalMesh
    from visionmesh.nodes import LoadedVersion, NodeRecord
    from visionmesh.settings import Settings

_UNSAID = {
    # Large messages are images, and few; Valkey never saves here.
    "nats": ("[INF]", "Maximum payloads over"),
    "valkey": ("overcommit must be enabled",),
}
_COLOURS = {
    "ingest": "cyan",
    "preprocess": "green",
    "infer": "yellow",
    "postprocess": "magenta",
    "nats": "blue",
    "valkey": "blue",
    "mesh": "bold",
}


class Service(StrEnum):
    INGEST = "ingest"
    PREPROCESS = "preprocess"
    INFER = "infer"
    POSTPROCESS = "postprocess"


def up(
    *,
    file: options.File = None,
    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A model folder, or a folder of them, to push first."),
    ] = None,
    nats: Annotated[
        str | None, typer.Option(metavar="URL", help="A NATS server that runs already.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="A Redis or Valkey that runs already.")
    ] = None,
    state: options.State = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of HTTP, 8000 unless told otherwise; 0: any free."),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of gRPC, 8001 unless told otherwise; 0: any free."),
    ] = None,
    mqtt_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Take frames by MQTT on this port, usually 1883; 0: any free."
        ),
    ] = None,
    nats_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the embedded NATS server; 0: any free.")
    ] = 4222,
) -> None:
    """Run a whole mesh in the foreground, until Ctrl-C or SIGTERM.

    Without --nats and --redis (or nats_url and redis_url in the settings) servers of its own are
    started. A process that ends unasked is started again. The end is orderly: images that are on
    their way are finished; a second Ctrl-C hurries.
    """
    from visionmesh.local import LocalMesh

    settings = options.settings_of(file, state_dir=state, nats_url=nats, redis_url=redis)
    ports = {"port": port, "grpc_port": grpc_port}
    told: dict[str, object] = {name: value for name, value in ports.items() if value is not None}
    if mqtt_port is not None:
        told["mqtt"] = settings.ingest.mqtt.model_copy(update={"port": mqtt_port})
    ingest = settings.ingest.model_copy(update=told)
    settings = settings.model_copy(update={"ingest": ingest})
    mesh = LocalMesh(
        state=settings.state_dir,
        settings=settings,
        models=model_folders(models) if models else (),
        nats_url=_if_told(settings, "nats_url"),
        redis_url=_if_told(settings, "redis_url"),
        nats_port=nats_port,
        output=_print_line,
    )
    asyncio.run(until_signalled(_stay_up(mesh), hurry=mesh.hurry))


def down(
    state: options.State = None,
    patience: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long the mesh may take to finish before it is killed."
        ),
    ] = "3m",
) -> None:
    """End the mesh that runs here, and remove what a killed one left behind."""
    from visionmesh.state import StateFolder, end_mesh

    within = options.duration(patience, "--patience")
    folder = StateFolder(options.settings_of(None, state_dir=state).state_dir)
    ended = end_mesh(folder, patience=within)
    screen().print(f"The mesh in {folder.path} has ended." if ended else "No mesh runs here.")


def serve(
    service: Annotated[Service, typer.Argument(help="Which one.")],
    file: options.File = None,
    nats: Annotated[
        str | None, typer.Option(metavar="URL", help="By default nats://127.0.0.1:4222.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="Without one nothing is cached.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of its HTTP interface; 0: any free.")
    ] = None,
) -> None:
    """Be one service, as a container runs it."""
    from visionmesh.replicas import sole_replica
    from visionmesh.supervisor import child_environment

    settings = options.settings_of(file, nats_url=nats, redis_url=redis)
    if port is not None:
        section = getattr(settings, service).model_copy(update={"port": port})
        settings = settings.model_copy(update={service: section})
    command = [sys.executable, "-m", f"services.{service}"]
    replica = sole_replica(settings, service)
    os.execve(
        sys.executable, command, {**child_environment(replica.settings), **replica.environment}
    )


def ps(
    nats: options.NatsUrl = None, state: options.State = None, json: options.AsJson = False
) -> None:
    """List the workers of the mesh on all its nodes, and the models that they have loaded."""

    async def nodes() -> None:
        async with options.client(nats, state) as mesh:
            found = await mesh.nodes()
        if json:
            for node in found:
                print_json(node.model_dump(mode="json"))
            return
        _print_workers(found)
        _print_loaded(found)
        print_reasons(found)
        print_failures(failures(found))

    asyncio.run(nodes())


def _print_workers(nodes: Sequence[NodeRecord]) -> None:
    print_table(
        ["STAGE", "NODE", "PID", "STATE", "MODELS", "DEVICE", "IN HAND", "HTTP", "GRPC", "SINCE"],
        (
            (
                node.stage,
                node.node,
                node.pid,
                "ready" if node.ready else "starting",
                _versions(node.models, node.failed),
                _devices(node),
                f"{node.load:g}",
                node.http or "",
                node.grpc or "",
                f"{node.since.astimezone():%F %T}",
            )
            for node in nodes
        ),
        empty="No worker is there.",
    )


def _devices(node: NodeRecord) -> str:
    """Return where a worker computes: an infer worker wherever its models do."""
    return ", ".join(sorted({name for one in node.loaded for name in one.devices})) or node.device


def _print_loaded(nodes: Sequence[NodeRecord]) -> None:
    """Print what engines hold, if they hold anything."""
    loaded = [(node, one) for node in nodes for one in node.loaded]
    if not loaded:
        return
    screen().print()
    print_table(
        ["MODEL", "VERSION", "NODE", "PID", "DEVICE", "ENGINE", "MEMORY", "SINCE"],
        (
            (
                one.model,
                one.version,
                node.node,
                node.pid,
                ", ".join(one.devices),
                f"{one.copies} x {one.engine} {one.precision}",
                memory(one),
                f"{one.since.astimezone():%F %T}",
            )
            for node, one in loaded
        ),
        empty="",
    )


def memory(loaded: LoadedVersion) -> str:
    """Return what a version takes of the host's memory, and of GPUs."""
    taken = [size(loaded.memory_bytes)]
    if loaded.device_memory:
        taken.append(f"{size(sum(loaded.device_memory.values()))} of GPU")
    return " + ".join(taken)


def _versions(models: dict[str, tuple[int, ...]], failed: Iterable[str]) -> str:
    loaded = [f"{name}:{','.join(map(str, versions))}" for name, versions in models.items()]
    return " ".join([*loaded, *(f"{version} FAILED" for version in failed)])


def model_folders(path: Path) -> list[Path]:
    """Return ``path`` if it is a model folder, else the model folders in it."""
    if (path / "model.yaml").is_file():
        return [path]
    found = sorted(inside.parent for inside in path.glob("*/model.yaml"))
    if not found:
        raise typer.BadParameter(f"{path} holds no model.yaml, nor does a folder in it")
    return found


async def until_signalled(work: Coroutine[None, None, None], *, hurry: Callable[[], None]) -> None:
    """Do ``work`` until it is done or a signal asks for its end; a second one calls ``hurry``."""
    task = asyncio.ensure_future(work)

    def signalled() -> None:
        if task.cancelling():
            hurry()
        else:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signalled)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _stay_up(mesh: LocalMesh) -> None:
    async with mesh:
        places = {
            "NATS": mesh.nats_url,
            "HTTP": mesh.http_url,
            "gRPC": mesh.grpc_url,
            "MQTT": mesh.mqtt_url,
        }
        said = ", ".join(f"{name} {url}" for name, url in places.items() if url is not None)
        _print_line("mesh", f"up: {said}, state in {mesh.settings.state_dir}")
        await asyncio.Event().wait()


def _if_told(settings: Settings, name: str) -> str | None:
    return getattr(settings, name) if name in settings.model_fields_set else None


def _print_line(name: str, line: str) -> None:
    if any(words in line for words in _UNSAID.get(name, ())):
        return
    colour = _COLOURS.get(name.partition("-")[0], "")
    with suppress(OSError):  # the terminal may be gone; the mesh need not end for it
        screen().print(Text.assemble((f"{name:>13} │ ", colour), line))
