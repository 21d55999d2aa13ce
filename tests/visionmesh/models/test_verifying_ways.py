"""What a worker here would run is as fit as the network that it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from tests.networks import save_folder, save_network
from tests.visionmesh.models.verified import add_operator, artifact, failures, save_pictures
from visionmesh.cpu import cpu_features, multiplies_bytes
from visionmesh.errors import ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import ModelFolder, load_folder
from visionmesh.models.push import selected
from visionmesh.models.variants import Choice, Precision, Variants, write_variants
from visionmesh.models.verifying import quick, verify
from visionmesh.workbench import cores


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
        told = {"precision": Precision.INT8, "scheme": "u8s8", "faster": 2.0, "right": True}
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
