"""Which frames show something new."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from visionmesh.sources.similar import Scene


def view(*, car: int = 0, seed: int | None = None) -> NDArray[np.uint8]:
    """Return a street with a car at ``car``, under noise of its own for each ``seed``."""
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[:120] = (200, 150, 90)
    pixels[120:] = (90, 90, 90)
    cv2.rectangle(pixels, (car, 140), (car + 80, 200), (30, 30, 220), -1)
    if seed is not None:
        noise = np.random.default_rng(seed).normal(0, 6, pixels.shape)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return pixels


def test_noise_is_nothing_new_and_a_moved_car_is() -> None:
    scene = Scene()
    first = scene.look(view(seed=0))
    assert first is not None
    scene.remember(first)
    assert [scene.look(view(seed=seed)) for seed in range(1, 20)] == [None] * 19
    assert scene.look(view(car=120, seed=1)) is not None
    assert scene.look(np.zeros((240, 320, 3), np.uint8)) is not None


def test_a_small_thing_is_new_and_a_cloud_is_not() -> None:
    scene = Scene()
    first = scene.look(view())
    assert first is not None
    scene.remember(first)
    darker = view() - np.uint8(20)
    assert scene.look(darker) is None
    with_bird = view()
    cv2.circle(with_bird, (60, 60), 8, (0, 0, 0), -1)
    assert scene.look(with_bird) is not None


def test_a_slow_change_adds_up() -> None:
    scene = Scene()
    sent = []
    for step in range(60):
        pixels = view()
        pixels[140:200, 200:300] += np.uint8(step)
        if (seen := scene.look(pixels)) is not None:
            scene.remember(seen)
            sent.append(step)
    assert sent == [0, 11, 22, 33, 44, 55]


def test_what_was_not_sent_is_still_new() -> None:
    scene = Scene()
    assert scene.look(view()) is not None
    assert scene.look(view()) is not None
