"""Versions of a model as the commands show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from visionmesh.cli.console import screen

if TYPE_CHECKING:
    from visionmesh.models.record import ModelRecord, VersionRecord
    from visionmesh.nodes import NodeRecord

COLUMNS = ["VERSION", "TRAFFIC", "STATE", "RUNS ON", "SIZE", "PRECISIONS", "SHA-256", "PUSHED"]
_DIGEST_SHOWN = 12
_UNIT = 1000


def rows(record: ModelRecord, workers: Sequence[NodeRecord]) -> list[tuple[str, ...]]:
    """Return a row of `COLUMNS` for each version, the newest first."""
    return [
        (
            str(number),
            traffic_of(record, number),
            state_of(record, number, workers),
            _ways(record, number, workers),
            size(sum(version.objects.values())),
            ", ".join(_precisions(version)),
            version.sha256[:_DIGEST_SHOWN],
            f"{version.pushed_at.astimezone():%F %T}",
        )
        for number, version in sorted(record.versions.items(), reverse=True)
    ]


def traffic_of(record: ModelRecord, number: int) -> str:
    """Return a version's share of the images as it is told, in per cent."""
    shares = record.shares
    if number in shares:
        return f"{100 * shares[number] / sum(shares.values()):.3g} %"
    return "shadow" if number == record.traffic.shadow else "-"


def state_of(record: ModelRecord, number: int, workers: Sequence[NodeRecord]) -> str:
    """Return where a version is loaded, or that it is not."""
    name = record.spec.name
    infer = [worker for worker in workers if worker.stage == "infer"]
    if any(failure.concerns(name, number) for failure in failures(workers)):
        return "failed"
    holding = [
        worker
        for worker in infer
        if any((one.model, one.version) == (name, number) for one in worker.loaded)
    ]
    loaded = len(holding)
    # One that no longer serves the model may still hold it.
    asleep = sum(number in worker.models.get(name, ()) for worker in infer if worker not in holding)
    states = [
        f"{count} {text}" for count, text in ((loaded, "loaded"), (asleep, "asleep")) if count
    ]
    if states:
        return ", ".join(states)
    return "loading" if number in record.wanted and infer else "not loaded"


@dataclass(frozen=True)
class Failure:
    """A version that workers of a stage cannot run or decode."""

    version: str
    stage: str
    why: str

    def concerns(self, name: str, number: int | None = None) -> bool:
        model, _, version = self.version.rpartition("/")
        return model == name and number in {None, int(version)}


def failures(workers: Sequence[NodeRecord]) -> list[Failure]:
    """Return what the workers say, each once, by version."""
    found = {
        Failure(version, worker.stage, why)
        for worker in workers
        for version, why in worker.failed.items()
    }
    return sorted(found, key=astuple)


def print_failures(found: Sequence[Failure]) -> None:
    if found:
        screen().print()
    for failure in found:
        screen().print(Text(f"{failure.version} fails in {failure.stage}: {failure.why}", "red"))


def print_reasons(workers: Sequence[NodeRecord], name: str | None = None) -> None:
    """Print why versions run as they do or sleep, and how far those are that are loaded."""
    told = defaultdict(list)
    for worker in workers:
        runs = {f"{one.model}/{one.version}": one.why for one in worker.loaded}
        states = {"runs": runs, "is being loaded": worker.loading, "sleeps": worker.asleep}
        for what, reasons in states.items():
            for version, why in reasons.items():
                if why and name in {None, version.rpartition("/")[0]}:
                    told[version, what, why].append(f"{worker.node} ({worker.pid})")
    if told:
        screen().print()
    for (version, what, why), places in told.items():
        screen().print(Text(f"{version} {what} on {', '.join(places)}: {why}", "dim"))


def _ways(record: ModelRecord, number: int, workers: Sequence[NodeRecord]) -> str:
    found = {
        f"{one.engine} {one.precision}"
        for worker in workers
        for one in worker.loaded
        if (one.model, one.version) == (record.spec.name, number)
    }
    return ", ".join(sorted(found)) or "-"


def _precisions(version: VersionRecord) -> list[str]:
    artifacts = version.variants.artifacts if version.variants else ()
    schemes = [
        f"int8 {one.scheme}" if one.precision == "int8" else one.precision for one in artifacts
    ]
    return ["as pushed", *schemes]


def size(count: int) -> str:
    """Return a number of bytes in three digits and a unit."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < _UNIT:
            return f"{value:.3g} {unit}"
        value /= _UNIT
    return f"{value:.3g} GB"
