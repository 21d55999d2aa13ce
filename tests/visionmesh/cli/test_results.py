"""Where drawings go."""

from __future__ import annotations

from pathlib import Path

from visionmesh.cli.results import drawings


def names(images: list[str], folder: Path) -> list[str]:
    return [place.name for place in drawings(map(Path, images), folder).values()]


def test_images_of_equal_stem_have_drawings_of_their_own(tmp_path: Path) -> None:
    images = ["left/a.jpg", "right/a.jpg", "right/a.png", "right/a-2.png", "b.webp"]
    found = drawings(map(Path, images), tmp_path)
    assert [str(path) for path in found] == images
    assert [place.name for place in found.values()] == [
        "a.jpg",
        "a-2.jpg",
        "a-3.jpg",
        "a-2-2.jpg",
        "b.jpg",
    ]
    assert {place.parent for place in found.values()} == {tmp_path}


def test_an_image_that_is_named_twice_is_drawn_once() -> None:
    assert names(["a.jpg", "a.jpg"], Path("out")) == ["a.jpg"]


def test_no_image_is_drawn_over(tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("a.jpg", "a-2.jpg", "b.png")]
    assert names(images, tmp_path) == ["a-3.jpg", "a-2-2.jpg", "b.jpg"]
    assert names(images, tmp_path / "drawn") == ["a.jpg", "a-2.jpg", "b.jpg"]
