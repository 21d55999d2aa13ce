"""Commands on API keys, which clients of HTTP and gRPC show."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visionmesh.cli import options
from visionmesh.cli.console import aside, print_json, print_table, screen

if TYPE_CHECKING:
    from visionmesh.keys import KeyRecord
    from visionmesh.keys.store import KeyStore


class RightName(StrEnum):
    INFER = "infer"
    PUBLISH = "publish"
    READ = "read"
    ADMIN = "admin"


_UNLESS_TOLD = [RightName.INFER, RightName.PUBLISH, RightName.READ]


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for people.")],
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only for this model; * stands for anything. Repeat it."),
    ] = None,
    right: Annotated[
        list[RightName] | None,
        typer.Option(help="What it is good for; all but admin unless told. Repeat it."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Images, such as 100/s, 5000/m or 20000/h.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="When it ends, such as 90d from now.")
    ] = None,
    nats: options.NatsUrl = None,
    state: options.State = None,
    json: options.AsJson = False,
) -> None:
    """Make an API key and print it, once: the mesh keeps a hash only."""
    from visionmesh.keys import Right, issue, parse_rate

    if not 1 <= len(name) <= 63 or not name.isprintable():  # noqa: PLR2004 - what fits a table
        raise typer.BadParameter("a name has 1 to 63 printable characters", param_hint="NAME")
    if rate is not None:
        try:
            parse_rate(rate)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--rate") from error
    ends = datetime.now(UTC) + options.duration(expires, "--expires") if expires else None
    key, record = issue(
        name=name,
        models=model or ["*"],
        rights=[Right(one) for one in dict.fromkeys(right or _UNLESS_TOLD)],
        rate=rate,
        expires=ends,
    )

    async def store() -> None:
        async with _keys(nats, state) as keys:
            await keys.add(record)

    asyncio.run(store())
    if json:
        print_json({"key": key, **_told(record)})
        return
    sys.stdout.write(f"{key}\n")
    aside().print(f"Keep it: it is not shown again. `visionmesh keys revoke {record.id}` ends it.")


def list_keys(
    nats: options.NatsUrl = None, state: options.State = None, json: options.AsJson = False
) -> None:
    """List the API keys, also those that are not valid any more."""

    async def read() -> tuple[KeyRecord, ...]:
        async with _keys(nats, state) as keys:
            return await keys.list()

    found = asyncio.run(read())
    if json:
        for record in found:
            print_json(_told(record))
        return
    print_table(
        ["ID", "NAME", "MODELS", "RIGHTS", "RATE", "CREATED", "STATE"],
        (
            (
                record.id,
                record.name,
                " ".join(record.models),
                " ".join(record.rights),
                record.rate or "",
                f"{record.created.astimezone():%F %T}",
                record.fault() or _validity(record),
            )
            for record in found
        ),
        empty="There is no API key: `visionmesh keys add NAME` makes one.",
    )


def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="As `keys list` shows it.")],
    nats: options.NatsUrl = None,
    state: options.State = None,
) -> None:
    """Make an API key invalid, at once and for ever."""

    async def end() -> KeyRecord:
        async with _keys(nats, state) as keys:
            return await keys.revoke(which)

    record = asyncio.run(end())
    screen().print(f"The key {record.id} of {record.name} is revoked.")


def _validity(record: KeyRecord) -> str:
    return f"valid until {record.expires.astimezone():%F %T}" if record.expires else "valid"


def _told(record: KeyRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"sha256"}, exclude_none=True)


@asynccontextmanager
async def _keys(nats: str | None, state: Path | None) -> AsyncIterator[KeyStore]:
    from visionmesh.keys.store import KeyStore

    connection = await options.connection(nats, state)
    try:
        yield KeyStore(connection.client)
    finally:
        await connection.close()
