from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from tests.networks import save_folder, save_network
from visionmesh.cpu import computes_bf16, cpu_features
from visionmesh.errors import Code, ConfigurationError
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.pictures import Picture
from visionmesh.models.tuning import Row, Tuning, keep, tune
from visionmesh.models.variants import (
    Artifact,
    Precision,
    Variants,
    read_variants,
    write_variants,
)
from visionmesh.workbench import cores

HOPEFUL = {"fastest", "right"}


def pictures(count: int = 12, truth: str | None = None) -> list[Picture]:
    rng = np.random.default_rng(7)
    drawn = (rng.integers(0, 256, (8, 6, 3), np.uint8) for _ in range(count))
    return [Picture(cv2.imencode(".png", pixels)[1].tobytes(), truth) for pixels in drawn]


def folder_with(root: Path, seed: int | None) -> Path:
    """Write a model whose INT8 network has the weights of ``seed``: 1 is what it should be."""
    folder = save_folder(root / "trees")
    network = folder / "1" / "model.onnx"
    if seed is not None:
        file = save_network(folder / "1" / "model.int8.onnx", seed=seed)
        artifact = Artifact(
            file=file.name,
            precision=Precision.INT8,
            scheme="u8s8",
            sha256=file_sha256(file),
            size_bytes=file.stat().st_size,
        )
        write_variants(network.parent, Variants(of=file_sha256(network), artifacts=(artifact,)))
    return folder


def tuned(folder: Path, images: list[Picture] | None = None) -> Tuning:
    return tune(load_folder(folder), 1, images or pictures(), seconds=0.3)


def kinds(rows: tuple[Row, ...]) -> set[tuple[str, str]]:
    return {(row.way.engine, row.way.precision) for row in rows}


def test_every_engine_precision_and_number_of_threads_is_tried(tmp_path: Path) -> None:
    told: list[str] = []
    folder = load_folder(folder_with(tmp_path, seed=1))

    tuning = tune(folder, 1, pictures(), seconds=0.3, tell=told.append)

    expected = {("onnxruntime", "fp32"), ("openvino", "fp32")}
    expected |= {("onnxruntime", "int8"), ("openvino", "int8")}
    if computes_bf16(cpu_features()):
        expected.add(("openvino", "bf16"))
    assert kinds(tuning.rows) == expected
    shapes = {(row.way.threads, row.way.count) for row in tuning.rows}
    assert shapes == {(1, cores()), (cores(), 1)}
    rates = [row.images_per_s for row in tuning.rows]
    assert all(rates)
    assert rates == sorted(rates, key=lambda rate: -(rate or 0))
    assert tuning.images == 12
    assert any("onnxruntime int8" in step for step in told)


def test_the_fastest_is_also_tried_with_a_part_of_the_cores_for_each_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionmesh.models.candidates.cores", lambda: 6)
    told: list[str] = []

    tuning = tune(
        load_folder(folder_with(tmp_path, seed=1)), 1, pictures(), seconds=0.3, tell=told.append
    )

    shapes: dict[tuple[str, str], set[tuple[int, int]]] = {
        kind: set() for kind in kinds(tuning.rows)
    }
    for row in tuning.rows:
        shapes[row.way.engine, row.way.precision].add((row.way.threads, row.way.count))
        assert row.images_per_s
        assert row.verdict in HOPEFUL
    tried = sorted(shapes.values(), key=len)
    ends, between = {(1, 6), (6, 1)}, {(2, 3), (3, 2)}
    assert tried == [ends] * (len(tried) - 1) + [ends | between]
    assert [row.verdict for row in tuning.rows].index("fastest") == 0
    assert len([step for step in told if "in turns" in step]) == 2
    assert len(set(told)) == len(told), "nothing is loaded twice"


def test_the_choice_is_the_fastest_that_is_right(tmp_path: Path) -> None:
    tuning = tuned(folder_with(tmp_path, seed=1))
    choice = tuning.choice

    (best,) = (row for row in tuning.rows if row.verdict == "fastest")
    (plain,) = (
        row for row in tuning.rows
        if (row.way.engine, row.way.precision, row.way.threads) == ("onnxruntime", "fp32", 1)
    )  # fmt: skip
    assert choice.model_dump(include=set(best.way.model_fields_set)) == best.way.model_dump()
    assert choice.images_per_s == best.images_per_s
    assert choice.baseline_per_s == plain.images_per_s
    assert (choice.cpu, choice.cores) == (cpu_features(), cores())
    for row in tuning.rows:
        assert row.agreement == 1
        if row.verdict == "right" and best != plain:
            assert (row.images_per_s or 0) <= choice.images_per_s


def test_what_answers_differently_is_not_measured(tmp_path: Path) -> None:
    tuning = tuned(folder_with(tmp_path, seed=2))
    for row in tuning.rows:
        if row.way.precision is Precision.INT8:
            assert row.agreement is not None
            assert row.agreement < 0.99
            assert row.verdict == f"only {row.agreement:.1%} of answers agree"
            assert row.images_per_s is None
        else:
            assert row.verdict in HOPEFUL
    assert tuning.choice.precision is not Precision.INT8


def add_to_int8(folder: Path, *nodes: onnx.NodeProto) -> Path:
    """Put ``nodes`` behind the scores of the INT8 network: from `scores` to `changed`."""
    file = folder / "1" / "model.int8.onnx"
    network = onnx.load(file)
    network.graph.node.extend(nodes)
    network.graph.output[0].name = "changed"
    onnx.save(network, file)
    return folder


@pytest.mark.parametrize(
    ("nodes", "flaw"),
    [
        ([helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0]),
          helper.make_node("Sub", ["scores", "mean"], ["more"]),
          helper.make_node("Add", ["scores", "more"], ["changed"])], "batch: an image differs"),
        ([helper.make_node("RandomNormalLike", ["scores"], ["noise"], scale=1e-4),
          helper.make_node("Add", ["scores", "noise"], ["changed"])], "repeatable: "),
    ],
    ids=["batch", "repeatable"],
)  # fmt: skip
def test_what_answers_right_alone_must_do_so_in_any_batch_and_again(
    tmp_path: Path, nodes: list[onnx.NodeProto], flaw: str
) -> None:
    tuning = tuned(add_to_int8(folder_with(tmp_path, seed=1), *nodes))
    flawed = [row for row in tuning.rows if row.way.precision is Precision.INT8]
    assert flawed
    for row in flawed:
        assert row.agreement == 1
        assert row.verdict.startswith(flaw)
        assert row.images_per_s is None
    assert tuning.choice.precision is not Precision.INT8


def test_a_network_that_is_not_right_itself_is_not_tuned(tmp_path: Path) -> None:
    folder = add_to_int8(
        folder_with(tmp_path, seed=1), helper.make_node("RandomNormalLike", ["scores"], ["changed"])
    )
    shutil.copyfile(folder / "1" / "model.int8.onnx", folder / "1" / "model.onnx")
    with pytest.raises(ConfigurationError, match="itself is not right \\(repeatable") as raised:
        tuned(folder)
    assert raised.value.code is Code.VERIFICATION_FAILED


def test_where_the_truth_is_known_the_accuracy_decides(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=2)
    labels = load_folder(folder).spec.labels
    first = tuned(folder)
    assert {row.accuracy for row in first.rows} == {None}
    for label in labels:
        tuning = tuned(folder, pictures(truth=label))
        (plain,) = {r.accuracy for r in tuning.rows if r.way.precision is Precision.FP32}
        (other,) = {r.accuracy for r in tuning.rows if r.way.precision is Precision.INT8}
        assert plain is not None
        assert other is not None
        right = {r.verdict in HOPEFUL for r in tuning.rows if r.way.precision is Precision.INT8}
        assert right == {other >= plain - 0.01}


def test_a_network_that_an_engine_cannot_load_is_told_of(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=1)
    (folder / "1" / "model.int8.onnx").write_bytes(b"no network")
    tuning = tuned(folder)
    broken = [row for row in tuning.rows if row.way.precision is Precision.INT8]
    assert broken
    for row in broken:
        assert "cannot load model 'trees'" in row.verdict
        assert row.agreement is None
    assert tuning.choice.precision is not Precision.INT8


def test_what_was_made_of_another_network_is_not_tried(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=1)
    save_network(folder / "1" / "model.onnx", seed=5)
    assert Precision.INT8 not in {row.way.precision for row in tuned(folder).rows}


def test_a_network_that_has_no_answer_itself_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=1)
    words = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(words.replace("softmax}", "softmax, activation: none}"))
    with pytest.raises(ConfigurationError, match="itself has no answer for 12 of 12 images"):
        tuned(folder)


def test_a_network_that_does_not_run_as_it_is_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=None)
    (folder / "1" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ConfigurationError) as raised:
        tuned(folder)
    assert raised.value.code is Code.MODEL_INVALID


def test_images_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        tuned(folder_with(tmp_path, seed=None), [Picture(b"no image", None)])
    assert raised.value.code is Code.IMAGES_MISSING


def test_a_choice_is_kept_beside_the_network_and_its_artifacts(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, seed=1)
    network = folder / "1" / "model.onnx"
    choice = tuned(folder).choice

    keep(network, choice)

    kept = read_variants(network.parent)
    assert kept is not None
    assert kept.choice == choice
    assert [artifact.file for artifact in kept.artifacts] == ["model.int8.onnx"]
    shutil.copyfile(save_network(tmp_path / "other.onnx", seed=9), network)
    assert keep(network, choice).artifacts == ()
