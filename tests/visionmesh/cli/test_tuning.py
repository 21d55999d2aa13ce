"""`visionmesh optimize --tune`, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.networks import save_folder
from tests.visionmesh.cli.conftest import finish
from tests.visionmesh.models.test_tuning import pictures
from visionmesh.models.variants import read_variants


def folders(root: Path) -> tuple[Path, Path]:
    images = root / "images"
    images.mkdir()
    for number, picture in enumerate(pictures(9)):
        (images / f"{number}.png").write_bytes(picture.encoded)
    return save_folder(root / "trees"), images


async def test_tuning_shows_what_it_measured_and_keeps_the_fastest(tmp_path: Path) -> None:
    model, images = folders(tmp_path)
    arguments: list[str | Path] = [
        "optimize",
        model,
        "--calibrate",
        images,
        "--tune",
        "--seconds",
        "1",
    ]

    done = await finish(tmp_path / "state", *arguments)

    assert (done.status, done.err) == (0, "")
    variants = read_variants(model / "1")
    assert variants is not None
    assert variants.choice is not None
    assert variants.artifacts == (), "nothing was made but a choice"
    (fastest,) = (line for line in done.out.splitlines() if line.endswith("fastest"))
    assert fastest.split()[:2] == [variants.choice.engine, variants.choice.precision]
    assert "6 images compared" in done.out
    assert "trees, version 1" in done.out


async def test_tuning_tells_programs_the_same(tmp_path: Path) -> None:
    model, images = folders(tmp_path)
    arguments: list[str | Path] = [
        "optimize",
        model,
        "--calibrate",
        images,
        "--tune",
        "--seconds",
        "1",
        "--json",
    ]

    (told,) = (await finish(tmp_path / "state", *arguments)).documents

    variants = read_variants(model / "1")
    assert variants is not None
    assert variants.choice is not None
    assert told["choice"] == orjson.loads(variants.choice.model_dump_json())
    assert {row["way"]["engine"] for row in told["rows"]} == {"onnxruntime", "openvino"}
