"""The command that measures a mesh as its users see it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import print_json, print_table

if TYPE_CHECKING:
    from visionmesh.cli.load import Measured, Picture

_COUNTER_BYTES = 8


def bench(
    model: options.Model,
    files: options.Images,
    *,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 10.0,
    window: Annotated[
        int, typer.Option(min=1, help="Images in the mesh at once: more throughput, more latency.")
    ] = 64,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Images per second; else as many as it takes.")
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="Send the files as they are, so that caches answer.")
    ] = False,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Measure throughput and latency, from publishing an image to having its result.

    Each image is made new by eight bytes behind its end, which decoders ignore and caches do not.
    """
    from visionmesh.cli.load import Load
    from visionmesh.cli.sending import find_images

    paths = find_images(files)

    async def measure() -> Measured:
        async with options.client(nats, state) as mesh:
            load = Load(
                mesh=mesh,
                model=model,
                source=f"bench-{secrets.token_hex(6)}",
                picture=_pictures(paths, fresh=not cached),
                window=window,
                rate=rate,
            )
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(seconds, stop.set)
            await load.run(stop=stop)
            return load.measured

    figures = _figures(asyncio.run(measure()))
    if json:
        print_json(figures)
    else:
        print_table(["", ""], figures.items(), empty="")
    if figures["failed"] or figures["unanswered"]:
        raise typer.Exit(1)


def _figures(measured: Measured) -> dict[str, float]:
    return {
        "images": measured.answered,
        "images_per_second": round(measured.rate(), 1),
        **{f"{name}_ms": value for name, value in measured.percentiles().items()},
        "cached": measured.cached,
        "failed": measured.failed,
        "unanswered": measured.published - measured.answered,
    }


def _pictures(paths: list[Path], *, fresh: bool) -> Picture:
    images = itertools.cycle([path.read_bytes() for path in paths])
    marks = itertools.count(int.from_bytes(secrets.token_bytes(_COUNTER_BYTES - 1)))

    def picture() -> bytes:
        mark = next(marks).to_bytes(_COUNTER_BYTES) if fresh else b""
        return next(images) + mark

    return picture
