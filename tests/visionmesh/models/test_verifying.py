"""Networks that are fit to serve, and those that are not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import save_folder, save_network
from tests.visionmesh.models.verified import add_operator, artifact, failures, save_pictures
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.push import selected
from visionmesh.models.variants import Variants, write_variants
from visionmesh.models.verifying import quick, verify


def test_a_good_network_passes(tmp_path: Path) -> None:
    folder = load_folder(save_folder(tmp_path))
    found = verify(folder)
    (network,) = found.networks
    assert found.passed
    assert [check.name for check in network.checks] == ["finite", "readable", "repeatable", "batch"]
    assert list(network.ms) == [1, 2, 4, 8]
    assert all(0 < ms < 100 for ms in network.ms.values())
    assert 0 < network.memory_bytes < 100e6
    assert (found.images, found.real) == (8, False)
    quick(folder.spec, selected(folder, 1)[1])


@pytest.mark.parametrize(
    ("nodes", "check"),
    [
        ([helper.make_node("Sub", ["scores", "huge"], ["less"]),
          helper.make_node("Sqrt", ["less"], ["changed"])], "finite"),
        ([helper.make_node("RandomNormalLike", ["scores"], ["noise"]),
          helper.make_node("Add", ["scores", "noise"], ["changed"])], "repeatable"),
        ([helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0]),
          helper.make_node("Sub", ["scores", "mean"], ["changed"])], "batch"),
    ],
    ids=["finite", "repeatable", "batch"],
)  # fmt: skip
def test_a_bad_network_does_not(tmp_path: Path, nodes: list[onnx.NodeProto], check: str) -> None:
    huge = helper.make_node(
        "Constant", [], ["huge"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1e6])
    )
    folder = load_folder(add_operator(save_folder(tmp_path), huge, *nodes))
    with pytest.raises(ConfigurationError, match=check) as error:
        quick(folder.spec, selected(folder, 1)[1])
    assert error.value.code == Code.VERIFICATION_FAILED


def test_a_network_that_fails_on_images_is_told_of(tmp_path: Path) -> None:
    # Only for a black image, as the one that warms it, there is such a class.
    folder = add_operator(
        save_folder(tmp_path),
        helper.make_node("ReduceMax", ["image"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["class"], to=TensorProto.INT64),
        helper.make_node("Gather", ["scores", "class"], ["changed"], axis=1),
    )
    found = verify(load_folder(folder))
    assert failures(found) == [("model.onnx", "runs")]
    assert found.networks[0].ms == {}


def test_a_failed_check_fails_it_all(tmp_path: Path) -> None:
    noise = helper.make_node("RandomNormalLike", ["scores"], ["changed"])
    found = verify(load_folder(add_operator(save_folder(tmp_path), noise)))
    assert not found.passed
    assert failures(found) == [("model.onnx", "repeatable"), ("model.onnx", "batch")]


def test_outputs_that_the_decoder_cannot_read_are_found(tmp_path: Path) -> None:
    save_folder(tmp_path)
    text = (tmp_path / "model.yaml").read_text().replace("softmax", "yolox")
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="readable"):
        quick(load_folder(tmp_path).spec, selected(load_folder(tmp_path), 1)[1])


def test_a_network_of_a_fixed_batch_is_verified_with_that(tmp_path: Path) -> None:
    found = verify(load_folder(save_folder(tmp_path, shape=(3, 3, 8, 6))))
    assert found.passed
    assert list(found.networks[0].ms) == [3]


def test_the_original_must_say_the_same(tmp_path: Path) -> None:
    folder = load_folder(save_folder(tmp_path / "model"))
    images = save_pictures(tmp_path / "images", 6)
    same = save_network(tmp_path / "same.onnx", seed=1)
    other = save_network(tmp_path / "other.onnx", seed=2)

    equal = verify(folder, images=images, against=same)
    different = verify(folder, images=images, against=other)
    twin = verify(folder, images=images, against=save_folder(tmp_path / "twin"))

    assert equal.passed
    assert twin.passed
    assert equal.real
    assert equal.networks[0].trial is not None
    assert equal.networks[0].trial.agreement.max_error == 0
    assert equal.networks[0].against == "same.onnx"
    assert failures(different) == [("model.onnx", "values"), ("model.onnx", "answers")]


def test_an_original_whose_outputs_are_called_otherwise_is_compared_by_answers(
    tmp_path: Path,
) -> None:
    folder = load_folder(save_folder(tmp_path / "model"))
    images = save_pictures(tmp_path / "images", 6)
    renamed = add_operator(
        save_folder(tmp_path / "renamed"), helper.make_node("Identity", ["scores"], ["changed"])
    )
    (network,) = verify(folder, images=images, against=renamed).networks
    told = {check.name: (check.passed, check.told) for check in network.checks}
    assert told["values"] == (
        True,
        "no output has the name and the shape of one there: only answers tell",
    )
    assert told["answers"] == (True, "100.0% are equal")


def test_what_was_made_of_a_network_is_compared_with_it(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "model")
    images = save_pictures(tmp_path / "images", 6)
    for name, seed in (("model.good.onnx", 1), ("model.bad.onnx", 2)):
        save_network(folder / "1" / name, seed=seed)
    artifacts = (artifact(folder, "model.good.onnx"), artifact(folder, "model.bad.onnx"))
    of = file_sha256(folder / "1" / "model.onnx")
    write_variants(folder / "1", Variants(of=of, artifacts=artifacts))

    found = verify(load_folder(folder), images=images)

    assert failures(found) == [("model.bad.onnx", "answers")]
    good = found.networks[1]
    assert good.trial is not None
    assert (good.file, good.trial.agreement.answers) == ("model.good.onnx", 1)


def test_what_was_made_of_another_network_is_outdated(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    save_network(folder / "1" / "model.fp16.onnx", seed=1)
    write_variants(
        folder / "1", Variants(of="0" * 64, artifacts=(artifact(folder, "model.fp16.onnx"),))
    )
    assert failures(verify(load_folder(folder))) == [("model.fp16.onnx", "current")]


def test_an_artefact_that_does_not_load_is_a_failure_not_an_error(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    (folder / "1" / "model.fp16.onnx").write_bytes(b"cut short")
    of = file_sha256(folder / "1" / "model.onnx")
    write_variants(folder / "1", Variants(of=of, artifacts=(artifact(folder, "model.fp16.onnx"),)))
    assert failures(verify(load_folder(folder))) == [("model.fp16.onnx", "loads")]


def test_a_network_of_another_size_than_the_folder_says_is_told_at_once(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "trees", shape=("n", 3, 16, 6))
    with pytest.raises(ConfigurationError, match=r"model\.yaml wants H = 8 in NCHW; correct"):
        verify(load_folder(folder))
