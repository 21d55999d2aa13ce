"""The network that the benchmarks of engines run is one whose answers mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bench import resnet50
from bench.load import PHOTOS
from bench.resnet50 import RIDGE, views


def test_what_ends_it_is_the_ridge_regression_of_the_books() -> None:
    random = np.random.default_rng(0)
    features = random.normal(3, 1, (12, 5)).astype(np.float32)
    truth = [number % 3 for number in range(12)]

    matrix, offset = resnet50._fitted(features, truth, 3)

    wanted = np.eye(3)[truth] * resnet50.LOGIT
    apart, goal = features - features.mean(axis=0), wanted - wanted.mean(axis=0)
    penalty = RIDGE * np.square(apart).sum() / len(features)
    right = np.linalg.solve(apart.T @ apart + penalty * np.eye(5), apart.T @ goal)
    np.testing.assert_allclose(matrix, right, rtol=1e-3, atol=1e-4)
    middle = features.mean(axis=0) @ matrix + offset
    np.testing.assert_allclose(middle, wanted.mean(axis=0), rtol=1e-4)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos (../shared/data/photos) are not here")
def test_views_of_the_photos_are_others_each_time_and_called_like_the_photos() -> None:
    first, again, other = (views(number, most=4) for number in (0, 0, 1))
    assert [one.truth for one in first] == sorted(file.stem for file in PHOTOS.glob("*.jpg"))[:4]
    assert first == again
    assert [one.truth for one in first] == [one.truth for one in other]
    assert not {one.encoded for one in first} & {one.encoded for one in other}


def test_with_the_head_for_imagenet_it_is_as_large_as_the_paper_s(tmp_path: Path) -> None:
    network = onnx.load(resnet50.save_imagenet(tmp_path / "network.onnx"))
    numbers = sum(int(np.prod(tensor.dims)) for tensor in network.graph.initializer)
    # 25.6 million with the means and variances that convolutions have taken into themselves.
    assert numbers == pytest.approx(25.5e6, rel=0.01)
