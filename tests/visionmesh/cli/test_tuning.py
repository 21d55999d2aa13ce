"""`visionmesh optimize --tune`, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.networks import save_folder
from tests.visionmesh.cli.conftest import Finished, finish
from tests.visionmesh.models.test_tuning import pictures
from visionmesh.models.variants import Choice, Variants, read_variants


async def tuned(root: Path, *more: str) -> tuple[Finished, Variants, Choice]:
    """Tune a model of ``root`` for a second; return what is then kept of it, too."""
    images, model = root / "images", save_folder(root / "trees")
    images.mkdir()
    for number, picture in enumerate(pictures(9)):
        (images / f"{number}.png").write_bytes(picture.encoded)
    done = await finish(
        *(root / "state", "optimize", model, "--calibrate", images, "--tune", "--seconds", "1"),
        *more,
    )
    assert (done.status, done.err) == (0, "")
    variants = read_variants(model / "1")
    assert variants is not None
    assert variants.choice is not None
    return done, variants, variants.choice


async def test_tuning_shows_what_it_measured_and_keeps_the_fastest(tmp_path: Path) -> None:
    done, variants, choice = await tuned(tmp_path)

    assert variants.artifacts == (), "nothing was made but a choice"
    (fastest,) = (line for line in done.out.splitlines() if line.endswith("fastest"))
    assert fastest.split()[:2] == [choice.engine, choice.precision]
    assert "6 images compared" in done.out
    assert "trees, version 1" in done.out


async def test_tuning_tells_programs_the_same(tmp_path: Path) -> None:
    done, _, choice = await tuned(tmp_path, "--json")

    (told,) = done.documents
    assert told["choice"] == orjson.loads(choice.model_dump_json())
    assert {row["way"]["engine"] for row in told["rows"]} == {"onnxruntime", "openvino"}
