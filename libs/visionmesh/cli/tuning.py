"""`visionmesh optimize --tune`: the table of what was measured, and the choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from visionmesh.cli.console import print_table, screen
from visionmesh.cli.workshop import Say, work_and_show

if TYPE_CHECKING:
    from visionmesh.models.tuning import Tuning


def tune_and_show(
    folder: Path, *, images: Path, version: int | None, limit: int, seconds: float, json: bool
) -> None:
    """Tune a version on the images that did not calibrate it, keep the choice, and show all."""
    from visionmesh.models.folder import load_folder
    from visionmesh.models.pictures import gather
    from visionmesh.models.tuning import keep, tune
    from visionmesh.workbench import Workbench

    model = load_folder(folder)
    number, weights = model.pick(version)

    def measure(said: Say) -> Tuning:
        _, held_out = gather(images, Workbench(model.spec), most=limit).split()
        tuning = tune(model, number, held_out, seconds=seconds, tell=said)
        keep(weights, tuning.choice)
        return tuning

    name = f"{model.spec.name}, version {number}"
    work_and_show(measure, lambda tuning: _show(tuning, name), json=json)


def _show(tuning: Tuning, what: str) -> None:
    choice = tuning.choice
    rows = [
        (
            row.way.engine,
            row.way.precision,
            row.way.count,
            row.way.threads,
            _figure(row.images_per_s),
            "" if row.images_per_s is None else f"{row.images_per_s / choice.baseline_per_s:.2f}x",
            _figure(row.latency_ms),
            "" if row.agreement is None else f"{row.agreement:.1%}",
            "" if row.accuracy is None else f"{row.accuracy:.1%}",
            row.verdict,
        )
        for row in tuning.rows
    ]
    columns = [
        "ENGINE", "PRECISION", "COPIES", "THREADS", "IMAGES/S", "FASTER", "MS", "SAME ANSWERS",
        "ACCURACY", "VERDICT",
    ]  # fmt: skip
    print_table(columns, rows, empty="")
    screen().print(
        f"{tuning.images} images compared. Workers with a CPU like this one will run {what}, with "
        f"{choice.engine} in {choice.precision}, once it is pushed."
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
