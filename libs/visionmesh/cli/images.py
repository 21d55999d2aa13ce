"""Commands that send images and show what was recognised."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from visionmesh.cli import options
from visionmesh.cli.console import aside, failed, print_json, screen

if TYPE_CHECKING:
    from visionmesh.cli.sending import Sender
    from visionmesh.client import Mesh
    from visionmesh.contracts import Result
    from visionmesh.errors import Refused


def publish(
    model: options.Model,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|DIR|VIDEO…",
            help="Images, or folders of them; or a video: a file, a URL, a camera's number.",
        ),
    ],
    *,
    source: options.Source = "default",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Images per second; else as the mesh takes.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.001, help="Frames per second of a video; else all.")
    ] = None,
    skip_similar: Annotated[
        bool, typer.Option("--skip-similar", help="Leave out frames that show nothing new.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Go on with the images that come into the folder.")
    ] = False,
    move_to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --watch: where published images go.")
    ] = None,
    high: Annotated[bool, typer.Option("--high", help="Before those of normal priority.")] = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Drop what is not done by then: 5s.")
    ] = None,
    params: options.ParamsText = None,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Publish images as events; their results come to whoever watches.

    A full mesh is waited for, except with frames of a camera or a stream: then they are dropped,
    and counted. With --json each line tells a file or a frame and its event's id.
    """
    from visionmesh.cli.feeding import Feed
    from visionmesh.cli.sending import Sender, Wishes, find_images, new_ids
    from visionmesh.contracts import Priority

    wishes = Wishes(
        model=model,
        source=source,
        params=options.params(params),
        priority=Priority.HIGH if high else Priority.NORMAL,
        deadline=options.duration(deadline, "--deadline") if deadline else None,
    )
    feed = Feed.of(
        files, rate=rate, fps=fps, skip_similar=skip_similar, watch=follow, move_to=move_to
    )
    images = new_ids(find_images(map(Path, files))) if feed is None else {}

    async def send() -> int:
        async with options.client(nats, state) as mesh:
            if feed is not None:
                return await feed.run(mesh, wishes, rate=rate, json=json)
            sender = Sender(mesh=mesh, rate=rate, **wishes)
            return await _send_with_progress(sender, images, json=json)

    if asyncio.run(send()):
        raise typer.Exit(1)


def watch(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    *,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Begin with those of the last 10m.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many; else with Ctrl-C.")
    ] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Those of each source in the order of its images.")
    ] = False,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Show results as they come, of one model or of all."""

    ago = options.duration(since, "--since") if since else None

    async def show() -> None:
        if model is not None:
            await _tell_if_unknown(model, nats, state)
        async with options.client(nats, state) as mesh:
            begin = datetime.now(UTC) - ago if ago else None
            shown = 0
            results = mesh.results(model, source=source, since=begin, ordered=ordered)
            async for result in results:
                _print_result(result, json=json)
                shown += 1
                if shown == count:
                    return

    with suppress(KeyboardInterrupt):
        asyncio.run(show())


def run(
    model: options.Model,
    files: options.Images,
    *,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the images with results drawn on.")
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="The longest silence to wait for results.")
    ] = "30s",
    params: options.ParamsText = None,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Publish images and show their results, in one go."""
    from visionmesh.cli.errand import Errand
    from visionmesh.cli.results import drawings
    from visionmesh.cli.sending import Sender, find_images, new_ids, results_of_new

    files_by_id = new_ids(find_images(files))
    drawn = drawings(files_by_id.values(), draw) if draw else {}
    wanted, silence = options.params(params), options.duration(timeout, "--timeout")
    # A source of its own keeps the results of others away.
    source = f"run-{secrets.token_hex(6)}"

    async def go() -> int:
        async with options.client(nats, state) as mesh:

            async def show(result: Result) -> None:
                path = files_by_id[result.id]
                _print_result(result, json=json, name=str(path))
                if draw:
                    await _draw(path, result, drawn[path], mesh)

            sender = Sender(mesh=mesh, model=model, source=source, params=wanted)
            results = results_of_new(source, mesh=mesh, model=model)
            errand = Errand(sender=sender, results=results, images=files_by_id, show=show)
            return await errand.run(silence=silence)

    if asyncio.run(go()):
        raise typer.Exit(1)


async def _draw(path: Path, result: Result, to: Path, mesh: Mesh) -> None:
    """Write the image with its result to a file, or say what could not be drawn."""
    from visionmesh.cli.results import draw_file

    heatmap = await mesh.heatmap(result)
    if result.heatmap is not None and heatmap is None:
        failed(f"{path} is drawn without its heat-map: the mesh has it no more.")
    encoded = await asyncio.to_thread(path.read_bytes)
    if not await asyncio.to_thread(draw_file, encoded, result, to, heatmap=heatmap):
        failed(f"{path} cannot be drawn on: it cannot be decoded here.")


async def _tell_if_unknown(model: str, nats: str | None, state: Path | None) -> None:
    """Say so if results of ``model`` can only be old ones, or come once it is pushed."""
    from visionmesh.errors import Code, Refused
    from visionmesh.models.registry import Registry

    connection = await options.connection(nats, state)
    try:
        await Registry(connection.client).get(model)
    except Refused as error:
        if error.code is not Code.UNKNOWN_MODEL:
            raise
        failed(error.message, error.code)
    finally:
        await connection.close()


async def _send_with_progress(sender: Sender, images: dict[str, Path], *, json: bool) -> int:
    """Return how many images were refused."""
    refused = 0
    console = aside()
    columns = (TextColumn("publishing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("publishing", total=len(images))

        def told(id: str, error: Refused | None) -> None:
            nonlocal refused
            refused += error is not None
            if error is not None:
                failed(f"{images[id]}: {error.message}", error.code)
            elif json:
                print_json({"file": str(images[id]), "id": id})
            progress.advance(task)

        await sender.send_all(images, each=told)
    if not json:
        screen().print(f"{len(images) - refused} of {len(images)} images are published.")
    return refused


def _print_result(result: Result, *, json: bool, name: str | None = None) -> None:
    from visionmesh.cli.results import line

    if json:
        values = result.model_dump(mode="json", exclude_none=True)
        print_json(values if name is None else {"file": name, **values})
    else:
        screen().print(line(result, name=name))
