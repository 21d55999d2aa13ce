"""Makes model folders of networks from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from visionmesh.cli import options
from visionmesh.cli.console import aside, print_json, print_table, screen

if TYPE_CHECKING:
    from visionmesh.models.importing import Imported

_LARGEST = 8192
"""Of an image's sides, as `model.yaml` allows."""

Size = Annotated[
    str | None,
    typer.Option("--input", metavar="WxH", help="The input's size: 640, or 640x480."),
]
Numbers = Annotated[str | None, typer.Option(metavar="X[,X,X]", help="One for each channel.")]


def import_model(
    source: Annotated[
        str,
        typer.Argument(help="FILE.onnx|.pt2|.pt|.tflite, a SavedModel's folder, MODULE:CALLABLE."),
    ],
    *,
    name: Annotated[str, typer.Option(help="What the model is to be called.")],
    task: Annotated[
        str | None,
        typer.Option(help="classification, detection, segmentation, anomaly or embedding."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One label per line, or JSON or YAML that names them."),
    ] = None,
    size: Size = None,
    resize: Annotated[str | None, typer.Option(help="letterbox, crop or stretch.")] = None,
    anchor: Annotated[
        str | None, typer.Option(help="Where a letterboxed image lies: center or top_left.")
    ] = None,
    color: Annotated[str | None, typer.Option(help="RGB, BGR or GRAY.")] = None,
    layout: Annotated[str | None, typer.Option(help="NCHW or NHWC.")] = None,
    scale: Annotated[
        str | None, typer.Option(metavar="X", help="What pixels are multiplied by: 1/255, 1.")
    ] = None,
    mean: Numbers = None,
    std: Numbers = None,
    pad: Annotated[int | None, typer.Option(help="0 to 255, around a letterboxed image.")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="What reads the outputs: yolov8, softmax, MODULE:FUNCTION.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="More for `output` in model.yaml."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A state dict for the network of MODULE:CALLABLE."),
    ] = None,
    models: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the model's folder is made.")
    ] = Path("models"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model of that name, with all its versions.")
    ] = False,
    json: options.AsJson = False,
) -> None:
    """Make a model's folder of a network: ONNX, PyTorch or TensorFlow.

    What the network does not tell is assumed, and told with the option that says otherwise.
    If the model is there already, this becomes its next version.
    """
    from visionmesh.models.importing import Wishes
    from visionmesh.models.importing import import_model as make

    values: dict[str, Any] = {
        **_size(size),
        "input.resize": _choice(resize, "--resize", ("letterbox", "crop", "stretch")),
        "input.anchor": _choice(anchor, "--anchor", ("center", "top_left")),
        "input.color": _choice(color, "--color", ("RGB", "BGR", "GRAY")),
        "input.layout": _choice(layout, "--layout", ("NCHW", "NHWC")),
        "input.scale": None if scale is None else _number(scale, "--scale"),
        "input.mean": _numbers(mean, "--mean"),
        "input.std": _numbers(std, "--std"),
        "input.pad": pad,
        "output.decoder": decoder,
        **dict(_setting(setting) for setting in settings or ()),
    }
    wishes = Wishes(
        name=name,
        task=_task(task),
        labels=labels,
        weights=weights,
        values={key: value for key, value in values.items() if value is not None},
    )
    _tell(make(source, wishes, models=models, force=force), json=json)


def _tell(imported: Imported, *, json: bool) -> None:
    if json:
        print_json(
            {
                "name": imported.spec.name,
                "folder": str(imported.folder),
                "version": imported.version,
                "size_bytes": imported.size_bytes,
                "batch": imported.batch,
                "facts": {
                    key: {"value": fact.value, "origin": fact.origin, "why": fact.why}
                    for key, fact in imported.facts.items()
                },
                "notes": imported.notes,
            }
        )
        return
    from visionmesh.models.importing.wishes import flag

    rows = [
        (key, _brief(fact.value), fact.origin, fact.why, flag(key) * (fact.origin == "assumed"))
        for key, fact in imported.facts.items()
    ]
    print_table(["KEY", "VALUE", "IS", "BECAUSE", "SAY OTHERWISE"], rows, empty="")
    for note in imported.notes:
        aside().print(Text(f"{note}.", style="yellow"))
    batch = "any" if imported.batch is None else imported.batch
    screen().print(
        f"{imported.folder}: version {imported.version}, {imported.size_bytes / 1e6:.1f} MB, "
        f"batches of {batch} — next: visionmesh push {imported.folder}"
    )


def _brief(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        shown = ", ".join(_brief(each) for each in value[:4])
        return f"{shown}, … ({len(value)})" if len(value) > len(value[:4]) else shown
    return str(value)


def _task(text: str | None) -> Any:
    from visionmesh.models.spec import Task

    chosen = _choice(text, "--task", tuple(task.value for task in Task))
    return None if chosen is None else Task(chosen)


def _choice(text: str | None, option: str, choices: tuple[str, ...]) -> str | None:
    if text is None or text in choices:
        return text
    raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}", param_hint=option)


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    width, _, height = text.partition("x")
    sides = [width, height or width]
    if not all(side.isdecimal() and 1 <= int(side) <= _LARGEST for side in sides):
        raise typer.BadParameter(
            f"{text!r} is no size: write 640, or width and height as 640x480", param_hint="--input"
        )
    return {"input.width": int(sides[0]), "input.height": int(sides[1])}


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    return None if text is None else tuple(_number(part, option) for part in text.split(","))


def _number(text: str, option: str) -> float:
    """Return a number, or the quotient of two: 1/255."""
    upper, slash, lower = text.partition("/")
    try:
        return float(upper) / float(lower) if slash else float(upper)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is no number", param_hint=option) from error


def _setting(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise typer.BadParameter(
            f"{text!r} must be KEY=VALUE, such as activation=sigmoid", param_hint="--set"
        )
    try:
        return f"output.{key}", yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{text!r} is no YAML value", param_hint="--set") from error
