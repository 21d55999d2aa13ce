"""What tuning brings: the tuned engine against plain ONNX Runtime in FP32, through the whole mesh.

    python -m bench.tuned --rounds 3

A network of ResNet-50's shape is made, quantised and tuned as `visionmesh optimize --tune` does.
Then a mesh that has only the network, and one that has its variants too, take turns with 64 events
in flight; no image comes twice. Both also say what other views of the photos show, whose truth is
known. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.load import Driver, distinct, fresh_mesh, photos
from bench.resnet50 import FITTED, resnet50_folder, views
from visionmesh.client import Mesh
from visionmesh.models.folder import load_folder
from visionmesh.models.optimizing import optimize
from visionmesh.models.pictures import Picture
from visionmesh.models.tuning import Tuning, keep, tune
from visionmesh.models.variants import Precision

IN_FLIGHT = 64
WARM_UP = 5.0
ASKED_TOGETHER = 16


@dataclass
class Side:
    """One of the two meshes, over all rounds."""

    folder: Path
    rates: list[float] = field(default_factory=list)
    engine: str = ""
    answers: list[str] = field(default_factory=list)

    def right(self, judged: Sequence[Picture]) -> float:
        pairs = zip(self.answers, judged, strict=True)
        return statistics.fmean(answer == picture.truth for answer, picture in pairs)


async def measure(side: Side, judged: Sequence[Picture], *, seconds: float) -> None:
    """Add one round; the first one also asks what is on the images of ``judged``."""
    images = distinct(photos())
    name = side.folder.name
    async with fresh_mesh(side.folder) as (_, mesh):
        (infer,) = (node for node in await mesh.nodes() if node.stage == "infer")
        (loaded,) = infer.loaded
        side.engine = f"{loaded.engine} {loaded.precision}, {loaded.copies} copies"
        driver = Driver(mesh=mesh, model=name)
        await driver.run(images, in_flight=IN_FLIGHT, seconds=WARM_UP)
        load = await driver.run(images, in_flight=IN_FLIGHT, seconds=seconds)
        assert set(load.statuses) == {"ok"}, load.statuses
        side.rates.append(load.rate)
        if not side.answers:
            side.answers = await ask(mesh, name, judged)


async def ask(mesh: Mesh, model: str, judged: Sequence[Picture]) -> list[str]:
    """Return the first class of each image."""
    labels: list[str] = []
    for at in range(0, len(judged), ASKED_TOGETHER):
        some = judged[at : at + ASKED_TOGETHER]
        results = await asyncio.gather(*(mesh.infer(model, one.encoded) for one in some))
        labels += [result.classes[0].label if result.classes else "" for result in results]
    return labels


def tuned_folder(root: Path, plain: Path, *, seconds: float) -> tuple[Path, Tuning]:
    """Return a copy of ``plain`` that was quantised and tuned, and what that found."""
    folder = Path(shutil.copytree(plain, root / "tuned" / plain.name))
    pictures = [picture for number in (FITTED, FITTED + 1) for picture in views(number)]
    for number, picture in enumerate(pictures):
        file = root / "views" / str(picture.truth) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture.encoded)
    model = load_folder(folder)
    report = optimize(model, precision=Precision.INT8, images=root / "views", said=print)
    print(f"INT8 promoted: {report.promoted}")
    tuning = tune(model, 1, views(FITTED + 2), seconds=seconds, tell=print)
    keep(model.versions[1], tuning.choice)
    return folder, tuning


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    arguments = parser.parse_args()
    judged = [picture for number in range(FITTED + 3, FITTED + 5) for picture in views(number)]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        plain = Side(resnet50_folder(root / "plain"))
        folder, tuning = tuned_folder(root, plain.folder, seconds=60)
        for row in tuning.rows:
            print(f"{row.way!s:<45}{row.images_per_s or 0:>8.1f} images/s   {row.verdict}")
        tuned = Side(folder)
        for _ in range(arguments.rounds):
            for side in (plain, tuned):
                uvloop.run(measure(side, judged, seconds=arguments.seconds))
                print(f"{side.engine:<36}{side.rates[-1]:>8.1f} images/s", flush=True)
    report(plain, tuned, judged)


def report(plain: Side, tuned: Side, judged: Sequence[Picture]) -> None:
    ratios = [one / other for one, other in zip(tuned.rates, plain.rates, strict=True)]
    same = statistics.fmean(map(str.__eq__, plain.answers, tuned.answers))
    found = {
        "plain_images_per_s": round(statistics.median(plain.rates), 1),
        "tuned_images_per_s": round(statistics.median(tuned.rates), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "plain_accuracy": round(plain.right(judged), 4),
        "tuned_accuracy": round(tuned.right(judged), 4),
        "same_answers": round(same, 4),
        "tuned_engine": tuned.engine,
    }
    for name, value in found.items():
        print(f"{name:<22}{value}")
    print(json.dumps({"benchmark": "tuned", "cpus": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
