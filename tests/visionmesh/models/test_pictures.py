from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.networks import save_folder
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.folder import load_folder
from visionmesh.models.pictures import gather
from visionmesh.workbench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(load_folder(save_folder(tmp_path_factory.mktemp("trees"))).spec)


def save(file: Path, grey: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((5, 7, 3), grey, np.uint8))
    return file


def test_an_image_is_in_one_part_only(bench: Workbench, tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"{number:02}.png", grey=number // 2)
    pictures = gather(tmp_path, bench, most=100)
    calibration, held_out = pictures.split()
    assert len(pictures) == 6
    assert (len(calibration), len(held_out)) == (2, 4)
    assert len({picture.encoded for part in (calibration, held_out) for picture in part}) == 6


def test_of_many_images_some_are_taken_from_all_over(bench: Workbench, tmp_path: Path) -> None:
    for number in range(60):
        save(tmp_path / f"{number:02}.png", grey=number)
    taken = [int(file.stem) for file in gather(tmp_path, bench, most=30).files]
    assert len(set(taken)) == 30
    assert {number % 3 for number in taken[:10]} == {0, 1, 2}
    assert {number // 20 for number in taken[:10]} == {0, 1, 2}
    assert [int(file.stem) for file in gather(tmp_path, bench, most=30).files] == taken


def test_folders_that_are_called_like_labels_tell_the_truth(
    bench: Workbench, tmp_path: Path
) -> None:
    save(tmp_path / "ash" / "1.png", 1)
    save(tmp_path / "birch" / "old" / "2.png", 2)
    assert {picture.truth for picture in gather(tmp_path, bench, most=9)} == {"ash", "birch"}
    save(tmp_path / "unsorted" / "3.png", 3)
    assert {picture.truth for picture in gather(tmp_path, bench, most=9)} == {None}


def test_what_is_no_image_is_named(bench: Workbench, tmp_path: Path) -> None:
    save(tmp_path / "good.png", 1)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "bad.jpg").write_bytes(b"\xff\xd8\xff no more of it")
    (tmp_path / "thumbnails.png").mkdir()
    (tmp_path / "moved.png").symlink_to(tmp_path / "nowhere.png")
    pictures = gather(tmp_path, bench, most=9)
    assert [file.name for file in pictures.files] == ["good.png"]
    assert pictures.skipped == ("more/bad.jpg",)


def test_images_are_asked_for(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no image that can be decoded") as none:
        gather(tmp_path, bench, most=9)
    save(tmp_path / "only.png", 1)
    with pytest.raises(ConfigurationError, match="a few hundred") as one:
        gather(tmp_path, bench, most=9).split()
    assert none.value.code == one.value.code == Code.IMAGES_MISSING
