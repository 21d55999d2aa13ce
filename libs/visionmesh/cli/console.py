"""How commands print: tables for people, JSON for programs, errors in one place."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text


def screen() -> Console:
    """Return the console on standard output."""
    # A pipe has no width: nothing is to be cut off there.
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)


def aside() -> Console:
    """Return the console on standard error, for what is not the command's answer."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def failed(message: str, code: str | None = None) -> None:
    """Print one red line (the server's own words may follow on further ones)."""
    text = Text(message, style="red")
    if code is not None:
        text.append(f" [{code}]", style="dim red")
    aside().print(text)


def print_json(value: Any) -> None:
    """Print ``value`` as one line of JSON."""
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a plain table, or ``empty`` if there is no row."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    screen().print(table if table.row_count else Text(empty, style="dim"))
