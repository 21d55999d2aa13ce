"""Commands on model folders, without a mesh: make a network smaller, and see that it is right."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from visionmesh.cli import options
from visionmesh.cli.console import aside, print_json, screen
from visionmesh.cli.findings import show_checks, show_made

if TYPE_CHECKING:
    from visionmesh.contracts import Frozen
    from visionmesh.models.optimizing import Report

Found = TypeVar("Found", bound="Frozen")
Say = Callable[[str], None]


class Smaller(StrEnum):
    """What a network can be made."""

    FP16 = "fp16"
    INT8 = "int8"


class Ranges(StrEnum):
    """How the range of a tensor's values is found."""

    PERCENTILE = "percentile"
    ENTROPY = "entropy"


Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A model's folder.", exists=True, file_okay=False)
]
Version = Annotated[int | None, typer.Option(metavar="N", help="By default the newest version.")]
Limit = Annotated[int, typer.Option(metavar="N", min=2, help="Use so many images at most.")]


def work_and_show(
    work: Callable[[Say], Found], show: Callable[[Found], None], *, json: bool
) -> Found:
    """Return what comes of long work, which says what it does; print it, as JSON on request."""
    with aside().status("reading images") as status:
        found = work(status.update)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        show(found)
    return found


def optimize(
    *,
    folder: Folder,
    calibrate: Annotated[
        Path,
        typer.Option(
            metavar="IMAGES",
            help="A folder of images as the model will see them. If each lies in a folder that is "
            "called like its label, the accuracy is told, too.",
            exists=True,
            file_okay=False,
        ),
    ],
    precision: Annotated[
        Smaller | None,
        typer.Option(help="What to make of it: by default int8, and with --tune nothing new."),
    ] = None,
    version: Version = None,
    method: Annotated[
        Ranges, typer.Option(help="How the ranges of values are found for INT8.")
    ] = Ranges.PERCENTILE,
    limit: Limit = 600,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Promote also what answers differently too often; workers do not run that.",
        ),
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure engines, precisions and threads on this machine; workers with such a CPU "
            "then run the fastest of those that are right.",
        ),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=1, help="With --tune: measure speeds for so long.")
    ] = 60.0,
    json: options.AsJson = False,
) -> None:
    """Make a network smaller or faster, and tell what that costs and brings.

    A third of the images calibrates, the others judge. What loses at most 1 % of the accuracy (of
    the equal answers, where the truth is not known) is promoted: `push` takes it along, and workers
    whose CPU multiplies bytes run an INT8 network that was at least 1.1 times as fast.
    """
    from visionmesh.cli.tuning import tune_and_show

    made = None
    if precision or not tune:
        made = _make_smaller(
            folder, precision=precision or Smaller.INT8, images=calibrate, version=version,
            method=method, limit=limit, force=force, json=json,
        )  # fmt: skip
    if tune:
        tune_and_show(
            folder, images=calibrate, version=version, limit=limit, seconds=seconds, json=json
        )
    if made:
        if not (tune or json):
            screen().print(f"Workers with a CPU like this one, once it is pushed: {made.runs}")
            screen().print(
                "next: visionmesh optimize … --tune: measures all engines and precisions"
            )
        _require_promoted(made)


def _make_smaller(
    folder: Path,
    *,
    precision: Smaller,
    images: Path,
    version: int | None,
    method: Ranges,
    limit: int,
    force: bool,
    json: bool,
) -> Report:
    from visionmesh.models.folder import load_folder
    from visionmesh.models.optimizing import Method
    from visionmesh.models.optimizing import optimize as make_smaller
    from visionmesh.models.variants import Precision

    return work_and_show(
        lambda said: make_smaller(
            load_folder(folder),
            precision=Precision(precision),
            images=images,
            version=version,
            method=Method(method),
            most=limit,
            force=force,
            said=said,
        ),
        show_made,
        json=json,
    )


def _require_promoted(report: Report) -> None:
    from visionmesh.errors import Code, Refused

    left = [one for one in report.made if one.file not in report.promoted]
    if left:
        whose = (f"{o.file} ({o.lost:.1%} lost, {o.trial.agreement.broken} broken)" for o in left)
        raise Refused(
            Code.AGREEMENT_LOST,
            f"Not promoted: {', '.join(whose)}; at most 1 % may be lost, and no image break. "
            "Calibrate with more images or others, try --precision fp16, or insist with --force.",
        )


def verify(
    *,
    folder: Folder,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGES",
            help="A folder of images to compare answers on; without it some are made up.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="What the network came from, and must equal: an ONNX file, or a model's folder.",
            exists=True,
        ),
    ] = None,
    version: Version = None,
    limit: Limit = 200,
    json: options.AsJson = False,
) -> None:
    """Look whether a network and what was made of it are right; exit with 1 if one is not.

    Outputs must be finite, the same each time and in any batch, and those of smaller networks must
    lead to the same answers.
    """
    from visionmesh.errors import Code, Refused
    from visionmesh.models.folder import load_folder
    from visionmesh.models.verifying import verify as examine

    found = work_and_show(
        lambda said: examine(
            load_folder(folder),
            version=version,
            images=images,
            against=against,
            most=limit,
            said=said,
        ),
        show_checks,
        json=json,
    )
    if not found.passed:
        wrong = ", ".join(network.name for network in found.networks if not network.passed)
        raise Refused(
            Code.VERIFICATION_FAILED, f"{found.model}, version {found.version}: wrong: {wrong}"
        )
