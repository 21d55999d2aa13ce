"""What the benchmarks of GPUs print: one line of JSON for each figure, and a table of all."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measurement."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    floor: str = ""
    """What no program could do better on this device, in words."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is as was wanted; `None` if nothing was."""
        if self.at_least is None and self.at_most is None:
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def wanted(self) -> str:
        """The bound, in words; empty if there is none."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return ", ".join(f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None)

    def tell(self) -> None:
        """Print it as a line of JSON."""
        sys.stdout.write(json.dumps(asdict(self)) + "\n")
        sys.stdout.flush()


@contextmanager
def measuring(what: str) -> Iterator[None]:
    """Say if something cannot be measured, or is wrong, as a line of JSON; what follows goes on."""
    # What installs the packages tells figures, too.
    from visionmesh.errors import VisionmeshError  # noqa: PLC0415

    try:
        yield
    except (VisionmeshError, AssertionError) as error:
        why = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps({"skipped": what, "why": why}) + "\n")
        sys.stdout.flush()


def table(figures: Iterable[Figure]) -> str:
    """Return a table in Markdown; what was not met is bold."""
    lines = ["| what | wanted | measured | floor, note |", "|---|---|---|---|"]
    for figure in figures:
        measured = f"{_number(figure.value)} {figure.unit}".strip()
        measured = f"**{measured}**" if figure.met is False else measured
        besides = "; ".join(filter(None, (figure.floor, figure.note)))
        lines.append(f"| {figure.what} | {figure.wanted} | {measured} | {besides} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of what all these benchmarks take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …, or emulated")
    parser.add_argument("--tiny", action="store_true", help="a dry run: small, and quick anywhere")
    return parser
