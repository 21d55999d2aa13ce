"""Labels come in the forms in which people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionmesh.errors import ConfigurationError
from visionmesh.models.importing.labels import read_labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "ash tree\n birch \n\n"),
        ("l.txt", "\ufeffash tree\r\nbirch\r\n"),
        ("l.json", '["ash tree", "birch"]'),
        ("l.json", '{"1": "birch", "0": "ash tree"}'),
        ("l.json", '{"0": ["n01", "ash tree"], "1": ["n02", "birch"]}'),
        ("l.json", '{"model_type": "vit", "id2label": {"0": "ash tree", "1": "birch"}}'),
        ("l.yaml", "path: trees\nnames: [ash tree, birch]\n"),
        ("l.yml", "names:\n  0: ash tree\n  1: birch\n"),
    ],
)
def test_labels_are_read(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text, newline="")
    assert read_labels(file) == ("ash tree", "birch")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "\n\n", "is empty"),
        ("l.json", "[", "holds no labels"),
        ("l.json", "[]", "must be a list of names"),
        ("l.json", '{"0": "ash", "2": "birch"}', "indices must run from 0 to 1"),
        ("l.yaml", "train: images/", "by index, or hold names"),
    ],
)
def test_what_holds_no_labels_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_labels(file)


def test_bytes_are_no_labels(tmp_path: Path) -> None:
    file = tmp_path / "l.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="give one label per line"):
        read_labels(file)
