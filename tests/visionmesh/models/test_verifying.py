from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import save_folder, save_network
from visionmesh.cpu import cpu_features, multiplies_bytes
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.models.push import selected
from visionmesh.models.variants import Artifact, Choice, Precision, Variants, write_variants
from visionmesh.models.verifying import Verification, quick, verify
from visionmesh.workbench import cores


def add_operator(folder: Path, *nodes: onnx.NodeProto, file: str = "model.onnx") -> Path:
    """Put ``nodes`` behind the scores of the network: from `scores` to `changed`."""
    model = onnx.load(folder / "1" / file)
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "changed"
    onnx.save(model, folder / "1" / file)
    return folder


def save_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (1, 1, 3)) + random.integers(-9, 9, (8, 6, 3))
        cv2.imwrite(str(folder / f"{number}.png"), pixels.clip(0, 255))
    return folder


def artifact(folder: Path, name: str) -> Artifact:
    file = folder / "1" / name
    return Artifact(
        file=name,
        precision=Precision.FP16,
        scheme="fp16",
        sha256=file_sha256(file),
        size_bytes=file.stat().st_size,
    )


def choice(file: str = "model.onnx", *, cpu: tuple[str, ...] | None = None) -> Choice:
    return Choice(
        engine="openvino",
        precision=Precision.FP32,
        file=file,
        threads=2,
        count=1,
        cpu=cpu_features() if cpu is None else cpu,
        cores=cores(),
        images_per_s=200,
        baseline_per_s=100,
    )


def failures(found: Verification) -> list[tuple[str, str]]:
    return [
        (network.file, check.name)
        for network in found.networks
        for check in network.checks
        if not check.passed
    ]


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


def test_what_a_worker_here_would_run_is_compared_with_the_network(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "model")
    images = save_pictures(tmp_path / "images", 6)
    of = file_sha256(folder / "1" / "model.onnx")
    write_variants(folder / "1", Variants(of=of, choice=choice()))

    found = verify(load_folder(folder), images=images)

    name = "model.onnx (openvino fp32, 2 threads)"
    assert [network.name for network in found.networks] == ["model.onnx", name]
    assert found.passed
    assert found.not_run is None
    tuned = found.networks[1]
    assert tuned.trial is not None
    assert (tuned.against, tuned.trial.agreement.answers) == ("model.onnx", 1)
    assert tuned.memory_bytes > 0


def test_a_tuned_way_that_answers_otherwise_fails(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "model")
    images = save_pictures(tmp_path / "images", 6)
    save_network(folder / "1" / "model.bad.onnx", seed=2)
    of, bad = file_sha256(folder / "1" / "model.onnx"), artifact(folder, "model.bad.onnx")
    chosen = choice("model.bad.onnx")
    write_variants(folder / "1", Variants(of=of, artifacts=(bad,), choice=chosen))
    found = verify(load_folder(folder), images=images)
    assert failures(found) == [("model.bad.onnx", "answers")] * 2
    assert [network.way is None for network in found.networks] == [True, True, False]


def test_what_a_worker_here_would_run_is_tried_before_a_push(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "model")
    bad = save_network(root / "1" / "model.bad.onnx", seed=1)
    add_operator(root, helper.make_node("Not", ["wrong"], ["changed"]), file=bad.name)
    of = file_sha256(root / "1" / "model.onnx")
    noise = helper.make_node("RandomNormalLike", ["scores"], ["changed"])

    def tuned(chosen: Choice) -> ModelFolder:
        made = (artifact(root, bad.name),)
        write_variants(root / "1", Variants(of=of, artifacts=made, choice=chosen))
        return load_folder(root)

    folder = tuned(choice(bad.name))
    # It does not load, so that a worker runs what it came from.
    quick(folder.spec, selected(folder, 1)[1])
    add_operator(root, noise, file=save_network(bad, seed=1).name)
    elsewhere = tuned(choice(bad.name, cpu=("z80",)))
    quick(elsewhere.spec, selected(elsewhere, 1)[1])
    here = tuned(choice(bad.name))
    words = r"1/model\.bad\.onnx \(openvino fp32, 2 threads\) is not fit to serve \(repeatable"
    with pytest.raises(ConfigurationError, match=words):
        quick(here.spec, selected(here, 1)[1])


@pytest.mark.skipif(
    not multiplies_bytes(cpu_features()), reason="INT8 runs by itself only on a CPU made for it"
)
def test_an_int8_network_that_workers_run_untuned_is_examined_once_and_tried_before_a_push(
    tmp_path: Path,
) -> None:
    root = save_folder(tmp_path / "model")
    of = file_sha256(root / "1" / "model.onnx")

    def quantised() -> ModelFolder:
        told = {"precision": Precision.INT8, "scheme": "u8s8", "faster": 2.0}
        made = artifact(root, "model.int8.onnx").model_copy(update=told)
        write_variants(root / "1", Variants(of=of, artifacts=(made,)))
        return load_folder(root)

    file = save_network(root / "1" / "model.int8.onnx", seed=1)
    found = verify(quantised())
    assert [network.name for network in found.networks] == ["model.onnx", file.name]
    noise = helper.make_node("RandomNormalLike", ["scores"], ["changed"])
    add_operator(root, noise, file=file.name)
    unfit = quantised()
    words = r"model\.int8\.onnx \(onnxruntime int8, 1 thread\) is not fit to serve \(repeatable"
    with pytest.raises(ConfigurationError, match=words):
        quick(unfit.spec, selected(unfit, 1)[1])


def test_a_way_that_was_tuned_on_another_cpu_is_told_but_not_run(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    of = file_sha256(folder / "1" / "model.onnx")
    write_variants(folder / "1", Variants(of=of, choice=choice(cpu=("z80",))))
    found = verify(load_folder(folder))
    assert found.passed
    assert len(found.networks) == 1
    assert found.not_run == "openvino fp32: it was tuned on another kind of CPU"


def test_a_choice_for_another_network_is_outdated(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    write_variants(folder / "1", Variants(of="0" * 64, choice=choice()))
    found = verify(load_folder(folder))
    assert failures(found) == [("variants.json", "current")]
    assert found.not_run == "openvino fp32: another network was tuned"


def test_a_network_of_another_size_than_the_folder_says_is_told_at_once(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "trees", shape=("n", 3, 16, 6))
    with pytest.raises(ConfigurationError, match=r"model\.yaml wants H = 8 in NCHW; correct"):
        verify(load_folder(folder))
