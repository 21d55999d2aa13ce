"""What a user says of a model that is imported, and how that is told from what is found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.spec import Task


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line says; `None` is left to be found out."""

    name: str
    task: Task | None = None
    labels: Path | None = None
    """One label per line, or a JSON or YAML file that names the classes."""
    weights: Path | None = None
    """A state dict for the network that ``module:callable`` makes."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """By the key in ``model.yaml``, such as ``input.width`` or ``output.decoder``."""


class Origin(StrEnum):
    GIVEN = "given"
    FOUND = "found"
    ASSUMED = "assumed"


class Fact(NamedTuple):
    """One value of ``model.yaml`` and how it got there."""

    value: Any
    origin: Origin
    why: str


FLAGS: Mapping[str, str] = {
    "task": "--task",
    "labels": "--labels",
    "input.width": "--input",
    "input.height": "--input",
    "input.resize": "--resize",
    "input.anchor": "--anchor",
    "input.color": "--color",
    "input.layout": "--layout",
    "input.scale": "--scale",
    "input.mean": "--mean",
    "input.std": "--std",
    "input.pad": "--pad",
    "output.decoder": "--decoder",
}
"""The option that says a value; a decoder's parameters are said with ``--set``."""


class Draft:
    """The values of a ``model.yaml`` in the making: what is given stands above what is found, and
    that above what is assumed."""

    def __init__(self, wishes: Wishes) -> None:
        self.name = wishes.name
        self.facts: dict[str, Fact] = {}
        if wishes.task is not None:
            self._give("task", wishes.task)
        for key, value in wishes.values.items():
            self._give(key, value)

    def get(self, key: str) -> Any:
        """Return what is known, or `None`."""
        fact = self.facts.get(key)
        return fact.value if fact else None

    def find(self, key: str, value: Any, why: str) -> None:
        """Note what the network says; raise `ConfigurationError` if the user says otherwise."""
        known = self.facts.get(key)
        if known and known.origin is Origin.GIVEN and known.value != value:
            raise misfit(
                f"{flag(key)} says {known.value}, but {why}: {key} is {value}; leave the option out"
            )
        if known is None or known.origin is Origin.ASSUMED:
            self.facts[key] = Fact(value, Origin.FOUND, why)

    def note(self, key: str, value: Any, why: str) -> None:
        """Note what was seen, unless the user says otherwise: who made the network knows better."""
        known = self.facts.get(key)
        if known is None or known.origin is not Origin.GIVEN:
            self.facts[key] = Fact(value, Origin.FOUND, why)

    def assume(self, key: str, value: Any, why: str) -> None:
        """Note what is likely, unless more is known."""
        self.facts.setdefault(key, Fact(value, Origin.ASSUMED, why))

    def _give(self, key: str, value: Any) -> None:
        self.facts[key] = Fact(value, Origin.GIVEN, f"said by {flag(key)}")


def flag(key: str) -> str:
    """Return the option that says the value of ``key``."""
    return FLAGS.get(key, f"--set {key.partition('.')[2]}=")


def misfit(what: str) -> ConfigurationError:
    """Return the error of a source that cannot become a model; ``what`` says what to do."""
    return ConfigurationError(Code.MODEL_INVALID, f"{what.rstrip('. ')}.")


def unsafe(what: str) -> ConfigurationError:
    """Return the error of a source that reaches for more than its own data."""
    return ConfigurationError(Code.MODEL_UNSAFE, f"{what.rstrip('. ')}.")
