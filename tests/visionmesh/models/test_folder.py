from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.networks import save_folder
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.folder import load_folder


def test_a_folder_is_read_with_its_name_labels_and_versions(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "trees", versions=(2, 10, 1), more="batching: {max_delay: 5ms}")

    model = load_folder(folder)

    assert model.spec.name == "trees"
    assert model.spec.labels == ("ash", "birch", "cedar", "dogwood")
    assert model.spec.batching.max_delay == timedelta(milliseconds=5)
    assert list(model.versions) == [1, 2, 10]
    assert all(file.is_file() for file in model.versions.values())


def test_labels_may_be_a_text_file_of_the_folder(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "trees")
    (folder / "names.txt").write_text("ash\nbirch tree\r\ncedar\ndogwood\n\n")
    yaml = folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("[ash, birch, cedar, dogwood]", "names.txt"))

    assert load_folder(folder).spec.labels == ("ash", "birch tree", "cedar", "dogwood")


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "link.txt"])
def test_labels_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = save_folder(tmp_path / "trees")
    (tmp_path / "secret.txt").write_text("ash")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    yaml = folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("[ash, birch, cedar, dogwood]", name))

    with pytest.raises(ConfigurationError, match=r"labels: .* lies outside"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 6", "width: six", r"trees/model.yaml: input.width: .*integer"),
        ("width: 6, ", "", r"input.width: this key is missing; add it"),
        ("labels:", "instances: cpu\nlabels:", r"instances: this must be a list"),
        ("width: 6", "width: 6, colour: RGB", r"input.colour: this key is not known"),
        ("width: 6", "width: 6, mean: [1, 2]", r"input: .*mean wants 1 or 3 values"),
        ("width: 6", "width: 6, scale: .nan", r"input.scale: .*finite"),
        ("width: 6", "width: 6, mean: [.inf]", r"input.mean.0: .*finite"),
        ("labels:", "instances: []\nlabels:", r"instances: .*at least 1"),
        ("classification", "poetry", r"task: "),
        ("task: classification", "- a list", r"model.yaml: the file "),
        ("task: classification", "name: Big Trees\ntask: classification", r"name: .*not a valid"),
        ("task: classification", "traffic: {1: -1}\ntask: classification", r"traffic.1: "),
        ("task: classification", "traffic: {1: 0}\ntask: classification", r"traffic: at least one"),
        ("task: classification", "traffic: {one: 1}\ntask: classification", r"traffic.one: "),
        ("[ash, birch, cedar, dogwood]", "names.txt", r"labels: 'names.txt' cannot be read"),
        ("labels:", "batching: {max_delay: soon}\nlabels:", r"batching.max_delay: .*not a dur"),
    ],
)
def test_a_faulty_key_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = save_folder(tmp_path / "trees")
    yaml = folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace(old, new))

    with pytest.raises(ConfigurationError, match=message) as raised:
        load_folder(folder)
    assert raised.value.code is Code.MODEL_INVALID
    assert ".." not in raised.value.message


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "trees", versions=(1, 2))
    (folder / "2" / "model.onnx").unlink()
    with pytest.raises(ConfigurationError, match=r"trees/2: there is no model.onnx"):
        load_folder(folder)

    (folder / "2").rmdir()
    (folder / "1" / "model.onnx").unlink()
    (folder / "1").rmdir()
    with pytest.raises(ConfigurationError, match=r"put the network into .*trees/1/model.onnx"):
        load_folder(folder)

    (folder / "model.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"trees/model.yaml: there is no such file"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("readme", "card"),
    [
        ("# Trees\n\nTells trees\nby their leaves.\n\nMore.\n", "Tells trees by their leaves."),
        ("# Trees\nTells trees.\n", "Tells trees."),
        ("![leaf](leaf.png)\r\n\r\nTells trees.\r\n", "Tells trees."),
        ("# Trees\n", "of the yard"),
        (None, "of the yard"),
    ],
)
def test_the_card_is_the_first_paragraph_else_the_description(
    tmp_path: Path, readme: str | None, card: str
) -> None:
    folder = save_folder(tmp_path / "trees", more="description: of the yard\n")
    if readme is not None:
        (folder / "README.md").write_bytes(readme.encode())
    assert load_folder(folder).card == card
