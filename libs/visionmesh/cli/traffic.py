"""Commands on which version of a model answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visionmesh.cli import options
from visionmesh.cli.console import print_json, print_table, screen

if TYPE_CHECKING:
    from visionmesh.models.comparing import Comparison, Side
    from visionmesh.models.record import ModelRecord

_NONE = "none"
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1)]


def traffic(
    name: options.Model,
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION=WEIGHT…]", help="All others get nothing."),
    ] = None,
    *,
    sticky: Annotated[
        str | None,
        typer.Option(metavar="id|source", help="What stays with a version: an image, or a source."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|none",
            help="A version that gets copies; its results go to the source shadow-… only.",
        ),
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="The newest version gets everything, now and later.")
    ] = False,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Say how a model's images are shared out among its versions, or show it.

    What is not named stays as it is. A version gets images as soon as all infer workers of the
    model have loaded it, and none before.
    """
    changes: dict[str, object] = {}
    if weights or newest:
        if weights and newest:
            raise typer.BadParameter("name weights, or --newest", param_hint="--newest")
        named = [_weight(text) for text in weights or ()]
        changes["weights"] = dict(named)
        if len(named) > len(dict(named)):
            raise typer.BadParameter("a version is named twice", param_hint="VERSION=WEIGHT")
    if sticky is not None:
        if sticky not in ("id", "source"):
            raise typer.BadParameter(f"{sticky!r} is neither id nor source", param_hint="--sticky")
        changes["sticky"] = sticky
    if shadow is not None:
        changes["shadow"] = None if shadow == _NONE else _number(shadow, "--shadow")
    asyncio.run(
        _change(name, lambda record: record.steered(**changes), nats=nats, state=state, json=json)
    )


def rollback(
    name: options.Model,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Give a model's images to the versions that answered before; a second time undoes it."""
    asyncio.run(
        _change(name, lambda record: record.rolled_back(), nats=nats, state=state, json=json)
    )


def compare(
    name: options.Model,
    first: Version,
    second: Version,
    *,
    images: Annotated[
        Path,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Images as the model sees them."
        ),
    ],
    most: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Of images.")] = 500,
    plain: Annotated[
        bool, typer.Option("--plain", help="Run the FP32 networks, not what was tuned.")
    ] = False,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Run two versions of a pushed model on the same images here, and compare what they say.

    Each runs as a worker on this machine would run it.
    """
    work = _compare(name, (first, second), images, most=most, plain=plain, nats=nats, state=state)
    found = asyncio.run(work)
    if json:
        print_json({"model": name, "versions": [first, second], **found.model_dump(mode="json")})
        return
    screen().print(
        f"{found.images} images: {found.agreement:.1%} of the answers agree, "
        f"{found.equal} images are answered entirely alike."
    )
    print_table(
        ["VERSION", "RAN", "ANSWERED", "ACCURACY", "P50 MS", "P99 MS", "WHY SO"],
        (_side(number, side) for number, side in ((first, found.first), (second, found.second))),
        empty="",
    )
    for one in found.differences:
        screen().print(f"{one.agreement:>7.1%}  {one.file}")


async def _change(
    name: str,
    change: Callable[[ModelRecord], ModelRecord],
    *,
    nats: str | None,
    state: Path | None,
    json: bool,
) -> None:
    from visionmesh.cli.versions import state_of, traffic_of
    from visionmesh.models.registry import Registry
    from visionmesh.nodes import list_nodes

    connection = await options.connection(nats, state)
    try:
        record = await Registry(connection.client).change(name, change)
        workers = await list_nodes(connection.client)
    finally:
        await connection.close()
    if json:
        shares = {str(version): weight for version, weight in record.shares.items()}
        told = record.traffic.model_dump(mode="json")
        print_json({"name": name, **told, "shares": shares})
        return
    print_table(
        ["VERSION", "TRAFFIC", "STATE"],
        [(v, traffic_of(record, v), state_of(record, v, workers)) for v in sorted(record.versions)],
        empty="",
    )
    screen().print(f"sticky by {record.traffic.sticky}")


async def _compare(
    name: str,
    versions: tuple[int, int],
    images: Path,
    *,
    most: int,
    plain: bool,
    nats: str | None,
    state: Path | None,
) -> Comparison:
    from visionmesh.models.comparing import Contender
    from visionmesh.models.comparing import compare as judge
    from visionmesh.models.registry import Registry
    from visionmesh.models.running import running_here

    directory = options.settings_of(None, state_dir=state).state_dir / "artifacts"
    connection = await options.connection(nats, state)
    registry = Registry(connection.client)

    async def contender(record: ModelRecord, number: int) -> Contender:
        spec = record.spec_of(number)
        here = running_here(spec, record.version(number), plain=plain)
        return Contender(spec, await registry.fetch(here.sha256, directory=directory), here)

    try:
        record = await registry.get(name)
        first, second = [await contender(record, number) for number in versions]
    finally:
        await connection.close()
    return judge(first, second, images, most=most)


def _side(number: int, side: Side) -> tuple[object, ...]:
    accuracy = "-" if side.accuracy is None else f"{side.accuracy:.1%}"
    return number, side.ran, side.answered, accuracy, side.p50_ms, side.p99_ms, side.why


def _weight(text: str) -> tuple[int, float]:
    version, sign, weight = text.partition("=")
    try:
        number, value = _number(version, "VERSION=WEIGHT"), float(weight)
    except ValueError:
        sign = ""
    if not sign or not 0 <= value < float("inf"):
        raise typer.BadParameter(
            f"{text!r} is not of the form VERSION=WEIGHT, such as 2=10", param_hint="VERSION=WEIGHT"
        )
    return number, value


def _number(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is no version", param_hint=option)
    return int(text)
