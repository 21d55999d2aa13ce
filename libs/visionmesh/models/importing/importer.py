"""The way of a network from a stranger's file to a model's folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from visionmesh.models.check import inspect
from visionmesh.models.folder import PROGRAM_FILE, SPEC_FILE, WEIGHTS_FILE, ModelFolder, load_folder
from visionmesh.models.importing.defaults import assume_habits
from visionmesh.models.importing.entry import describe_entry, describe_ultralytics, image_shape
from visionmesh.models.importing.exits import guesses
from visionmesh.models.importing.labels import named, read_labels
from visionmesh.models.importing.originals import Original, keep
from visionmesh.models.importing.probe import BATCHES, images
from visionmesh.models.importing.reading import read_onnx
from visionmesh.models.importing.seen import Guess, Seen, shown
from visionmesh.models.importing.sources import as_onnx
from visionmesh.models.importing.tidying import Tidied, tidy
from visionmesh.models.importing.trying import require_answer
from visionmesh.models.importing.wishes import Draft, Fact, Origin, Wishes, flag, misfit
from visionmesh.models.importing.writing import place, write_spec
from visionmesh.models.spec import ModelSpec, Task
from visionmesh.subjects import require_token

_ULTRALYTICS = {
    "detect": Task.DETECTION,
    "obb": Task.DETECTION,
    "segment": Task.SEGMENTATION,
    "classify": Task.CLASSIFICATION,
}
"""Their names of the tasks that are served."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a source."""

    folder: Path
    version: int
    spec: ModelSpec
    facts: dict[str, Fact]
    """By key of ``model.yaml``: each value, and how it is known."""
    batch: int | None
    """The only batch size that the network takes; `None`: any."""
    size_bytes: int
    notes: tuple[str, ...]
    """What could not be done to the network."""


def import_model(source: str, wishes: Wishes, *, models: Path, force: bool = False) -> Imported:
    """Make the folder ``models/<name>`` of ``source``, or add a version to it.

    A version is added if what is known of the new network agrees with the ``model.yaml`` that is
    there, which then stays as it is. With ``force`` the model is replaced, with all its versions.

    Raises
    ------
    Refused
        (invalid_name) if the name cannot be that of a model.
    ConfigurationError
        (model_invalid) if the source is broken, or something must be said that cannot be found
        out; (model_unsafe) if it reaches for more than its own data; (settings_invalid) if an extra
        is not installed.
    """
    require_token("model", wishes.name)
    folder = models / wishes.name
    old = load_folder(folder) if (folder / SPEC_FILE).exists() and not force else None
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".import-") as name:
        work = Path(name) / wishes.name
        (work / "1").mkdir(parents=True)
        draft = Draft(wishes)
        tidied, original = _ready(source, wishes, draft, work)
        _write(work, draft, tidied, source, original)
        new = load_folder(work)
        if old is not None:
            _require_agreement(draft, new.spec, old)
        spec = old.spec if old else new.spec
        _try(work / "1" / WEIGHTS_FILE, spec)
        version = place(work, folder, replace=force)
    return Imported(
        folder=folder,
        version=version,
        spec=load_folder(folder).spec,
        facts=draft.facts,
        batch=tidied.batch,
        size_bytes=(folder / str(version) / WEIGHTS_FILE).stat().st_size,
        notes=tuple(tidied.notes),
    )


def _ready(source: str, wishes: Wishes, draft: Draft, work: Path) -> tuple[Tidied, Original | None]:
    """Return the network of ``source``, with all that is known of it in ``draft``.

    With it comes what PyTorch had of it.
    """
    file, original = as_onnx(source, wishes, draft, work)
    model = read_onnx(file)
    (work / "source.onnx").unlink(missing_ok=True)
    metadata = describe_ultralytics(model, draft)
    describe_entry(model, draft)
    labels = _labels(wishes, metadata)
    tidied = tidy(model, images(max(BATCHES), image_shape(draft), draft.get("input.dtype")))
    guess = _guess(tidied, draft, metadata, labels)
    if guess is not None:
        _note_guess(guess, draft, labels)
        _keep_outputs(tidied.model, guess.uses)
    if labels is not None:
        draft.facts["labels"] = labels
    assume_habits(draft, ultralytics=bool(metadata))
    return tidied, original


def _labels(wishes: Wishes, metadata: dict[str, Any]) -> Fact | None:
    if wishes.labels is not None:
        why = f"the lines of {wishes.labels.name}"
        return Fact(read_labels(wishes.labels), Origin.GIVEN, why)
    try:
        return Fact(named(metadata.get("names")), Origin.FOUND, "the file's metadata names them")
    except ValueError:
        return None


def _guess(
    tidied: Tidied, draft: Draft, metadata: dict[str, Any], labels: Fact | None
) -> Guess | None:
    """Return the one way to read the outputs; `None` if the user names a decoder of their own."""
    if "task" in metadata:
        _note_ultralytics_task(metadata["task"], draft)
    seen = Seen(
        outputs={name: array[0] for name, array in tidied.outputs.items() if array.ndim},
        width=draft.get("input.width"),
        height=draft.get("input.height"),
        labels=len(labels.value) if labels else None,
        model=tidied.model,
    )
    task, decoder = draft.get("task"), draft.get("output.decoder")
    found = guesses(seen, task=task, decoder=decoder)
    if labels is not None and len(found) > 1:
        # Whoever names classes has a network that tells them apart.
        found = [guess for guess in found if guess.classes is not None] or found
    if len(found) == 1:
        return found[0]
    if decoder is not None and task is not None:
        return None
    there = f"the outputs are {shown(seen.outputs)}"
    if len(found) > 1:
        ways = ", ".join(f"--task {guess.task} --decoder {guess.decoder}" for guess in found)
        raise misfit(f"{there}, which may be several things; say which: {ways}")
    others = guesses(seen, task=None, decoder=None)
    hint = "".join(f"; they look like --task {g.task} --decoder {g.decoder}" for g in others)
    raise misfit(
        f"{there}, which no known decoder{f' for {task}' if task else ''} reads{hint}; name one "
        "with --task and --decoder, or a function of your own as --decoder module:function"
    )


def _note_ultralytics_task(task: Any, draft: Draft) -> None:
    if task not in _ULTRALYTICS:
        raise misfit(
            f"the file's metadata names the task {task!r}, which is not served; "
            f"those that are: {', '.join(_ULTRALYTICS)}"
        )
    draft.find("task", _ULTRALYTICS[task], "the file's metadata names it")


def _note_guess(guess: Guess, draft: Draft, labels: Fact | None) -> None:
    draft.find("task", guess.task, f"the decoder {guess.decoder} is for it")
    draft.note("output.decoder", guess.decoder, guess.why)
    for name, value in guess.parameters.items():
        draft.note(f"output.{name}", value, "seen in the outputs")
    for name, value in guess.assumed.items():
        draft.assume(f"output.{name}", value, "likely by the outputs")
    missing = {
        name: why for name, why in guess.wanted.items() if draft.get(f"output.{name}") is None
    }
    if missing:
        options = " ".join(f"{flag(f'output.{name}')}…" for name in missing)
        raise misfit(f"{guess.why}; {next(iter(missing.values()))}: say {options}")
    if labels is not None and guess.classes not in (None, len(labels.value)):
        if guess.decoder == "semantic" and guess.classes == 1 and len(labels.value) == 2:  # noqa: PLR2004 - the class and what is not it
            return
        raise misfit(
            f"there are {len(labels.value)} labels ({labels.why}), but the network tells "
            f"{guess.classes} classes apart: {guess.why}; correct the labels with --labels"
        )


def _keep_outputs(model: onnx.ModelProto, names: tuple[str, ...]) -> None:
    """Drop outputs that no decoder reads: they would travel for nothing."""
    for value in [value for value in model.graph.output if value.name not in names]:
        model.graph.output.remove(value)


def _write(
    work: Path, draft: Draft, tidied: Tidied, source: str, original: Original | None
) -> None:
    onnx.save_model(tidied.model, work / "1" / WEIGHTS_FILE)
    if original is not None:
        program = work / "1" / PROGRAM_FILE
        if why_not := keep(original, program, like=tidied.model, batch=tidied.batch):
            tidied.notes.append(why_not)
    shown_source = Path(source).name if Path(source).exists() else source
    write_spec(work, draft, source=shown_source, notes=tidied.notes)


def _try(network: Path, spec: ModelSpec) -> None:
    inspect(network, spec)
    require_answer(network, spec)


def _require_agreement(draft: Draft, new: ModelSpec, old: ModelFolder) -> None:
    """Raise `ConfigurationError` if what is known of the network is not what model.yaml says."""
    for key, fact in draft.facts.items():
        if fact.origin is Origin.ASSUMED:
            continue
        there, here = _value(old.spec, key), _value(new, key)
        if there != here:
            raise misfit(
                f"{old.spec.name} is there already, and its {key} is {there}, where the new "
                f"network's is {here} ({fact.why}); import it under another --name, or replace "
                "the model with --force"
            )


def _value(spec: ModelSpec, key: str) -> Any:
    section, _, name = key.partition(".")
    part = getattr(spec, section)
    if not name:
        return part
    known = getattr(part, name, None)
    return part.parameters.get(name) if known is None and section == "output" else known
