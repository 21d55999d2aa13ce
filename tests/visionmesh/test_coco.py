"""Results as a data set of COCO."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.references import make_reference, make_result
from visionmesh import rle
from visionmesh.coco import to_coco
from visionmesh.contracts import Detection, ImageInfo, Result, Rle, Status


def result(id: str, *detections: Detection) -> Result:
    image = ImageInfo(width=640, height=480, sha256="0" * 64)
    return make_result(make_reference(id=id), image=image, detections=detections)


CAT = Detection(label="cat", score=0.9, box=(10, 20, 30, 60))
DOG = Detection(label="dog", score=0.5, box=(0.5, 0.0, 4.5, 2.0))


def test_has_images_annotations_and_categories() -> None:
    error = make_result(make_reference(), status=Status.ERROR)
    assert to_coco([result("a", CAT, DOG), error, result("b"), result("c", DOG)]) == {
        "images": [
            {"id": number, "file_name": name, "width": 640, "height": 480}
            for number, name in ((1, "a"), (2, "b"), (3, "c"))
        ],
        "annotations": [
            annotation((1, 1, 1), bbox=[10, 20, 20, 40], area=800, score=0.9),
            annotation((2, 1, 2), bbox=[0.5, 0, 4, 2], area=8, score=0.5),
            annotation((3, 3, 2), bbox=[0.5, 0, 4, 2], area=8, score=0.5),
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def annotation(ids: tuple[int, int, int], **shape: object) -> dict[str, object]:
    names = ("id", "image_id", "category_id")
    return {**dict(zip(names, ids, strict=True)), "iscrowd": 0, **shape}


def test_classes_and_files_may_be_named() -> None:
    data = to_coco([result("a", DOG)], labels=["bird", "dog"], names={"a": "yard/1.jpg"})
    assert data["images"][0]["file_name"] == "yard/1.jpg"
    assert data["annotations"][0]["category_id"] == 2
    assert [category["name"] for category in data["categories"]] == ["bird", "dog"]
    with pytest.raises(ValueError, match="'cat' is not among"):
        to_coco([result("a", CAT)], labels=["dog"])


def test_masks_and_turned_boxes_are_segmentations() -> None:
    mask = np.zeros((480, 640), bool)
    mask[5:9, 6:20] = True
    masked = CAT.model_copy(update={"mask": rle.encode(mask)})
    turned = CAT.model_copy(update={"corners": ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0))})
    one, other = to_coco([result("a", masked, turned)])["annotations"]
    assert one["area"] == 56
    segmentation = one["segmentation"]
    assert segmentation["size"] == [480, 640]
    told = rle.decode(Rle(size=(480, 640), counts=segmentation["counts"]))
    np.testing.assert_array_equal(told, mask)
    assert other["segmentation"] == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_is_json() -> None:
    data = to_coco([result("a", CAT)])
    assert json.loads(json.dumps(data)) == data
