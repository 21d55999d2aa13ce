from __future__ import annotations

from pathlib import Path

from tests import heads
from visionmesh.models.pictures import Picture
from visionmesh.models.trial import Subject, drawn, lost, try_out
from visionmesh.workbench import Workbench


def subject(folder: Path, **output: object) -> Subject:
    """Return a detector that finds one object, whose score is a picture's mean brightness."""
    spec = heads.describe("yolov8")
    wanted = spec.output.model_copy(update=output)
    bench = Workbench(spec.model_copy(update={"output": wanted}))
    return Subject(
        bench=bench, engine=bench.open(heads.save(folder / "model.onnx", heads.yolov8()))
    )


def test_a_network_agrees_with_itself_whatever_a_class_has_to_score(tmp_path: Path) -> None:
    sure = subject(tmp_path / "n", confidence=0.9, class_confidence={"c5": 0.2})
    pictures = [Picture(drawn(sure.bench.spec.input, seed), None) for seed in range(4)]
    own, trials = try_out(sure, {"again": sure}, pictures)
    assert all(look(sure, picture) for picture in pictures)
    assert own.agreement.answers == trials["again"].agreement.answers == 1


def look(subject: Subject, picture: Picture) -> int:
    """Return how many boxes are found."""
    answer = subject.look(subject.bench.sample(picture.encoded)).answer
    return len(answer.detections or ()) if answer else 0


def test_a_box_may_score_a_little_less_than_its_class_has_to(tmp_path: Path) -> None:
    picture = Picture(drawn(heads.describe("yolov8").input, 0), None)
    usual = subject(tmp_path / "a")
    answer = usual.look(usual.bench.sample(picture.encoded)).answer
    assert answer is not None
    assert answer.detections is not None
    (found,) = answer.detections
    for more, boxes in ((0.04, 1), (0.06, 0)):
        strict = subject(
            tmp_path / f"{more}", confidence=0.01, class_confidence={"c5": found.score + more}
        )
        seen = strict.look(strict.bench.sample(picture.encoded))
        assert seen.answer is not None
        assert seen.wider is not None
        assert seen.answer.detections == ()
        assert len(seen.wider.detections or ()) == boxes


def test_what_has_no_classes_is_judged_by_its_answers_though_images_lie_by_labels(
    tmp_path: Path,
) -> None:
    sure, unsure = subject(tmp_path / "a"), subject(tmp_path / "b", confidence=0.99)
    pictures = [Picture(drawn(sure.bench.spec.input, seed), "c5") for seed in range(4)]
    own, trials = try_out(sure, {"unsure": unsure}, pictures)
    assert own.accuracy is None
    assert trials["unsure"].accuracy is None
    assert lost(trials["unsure"], own.accuracy) > 0.5
