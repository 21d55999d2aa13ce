from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from services.infer.engines import Image, Outputs
from visionmesh.errors import Code, Reject
from visionmesh.models.race import race

IMAGES = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]


class Sleeper:
    """An engine whose speed is known: it only takes its time."""

    def __init__(self, milliseconds: float, *, sizes: tuple[int, ...] = (1, 2, 3, 4)) -> None:
        self.batch_sizes = sizes
        self.ran: list[int] = []
        self.seen: set[int] = set()
        self._seconds = milliseconds / 1e3

    def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
        self.ran.append(len(images))
        self.seen.update(int(image[0, 0, 0]) for image in images)
        time.sleep(self._seconds * len(images))
        return {}

    def warm(self) -> None: ...

    def close(self) -> None: ...


def test_copies_work_at_the_same_time_on_full_batches_of_all_images() -> None:
    pair = Sleeper(4), Sleeper(4)
    speeds = race({"pair": pair, "one": [Sleeper(4)]}, IMAGES, batch=2, seconds=0.5, keep="one")
    assert 50 < speeds["one"].images_per_s <= 250
    assert 1.4 * speeds["one"].images_per_s < speeds["pair"].images_per_s <= 500
    assert 4 <= speeds["pair"].latency_ms < 40
    for engine in pair:
        assert set(engine.ran) == {1, 2}
        assert engine.seen == {0, 1, 2}


def test_what_is_far_behind_runs_in_one_round_only_unless_it_is_to_be_kept() -> None:
    fast, slow, kept = Sleeper(1), Sleeper(40), Sleeper(40)
    race({"fast": [fast], "slow": [slow], "kept": [kept]}, IMAGES, batch=1, seconds=0, keep="kept")
    # Twice to warm up, then one image alone and one batch in each round.
    assert (len(slow.ran), len(kept.ran)) == (4, 12)
    assert len(fast.ran) == 12


@pytest.mark.parametrize(("sizes", "wanted"), [((8,), 8), ((1, 4, 16), 4)])
def test_batches_are_of_a_size_that_the_engine_has(sizes: tuple[int, ...], wanted: int) -> None:
    engine = Sleeper(0.1, sizes=sizes)
    race({"only": [engine]}, IMAGES, batch=6, seconds=0, keep="only")
    assert set(engine.ran) == {1, wanted}


def test_an_image_that_fails_ends_the_race() -> None:
    class Broken(Sleeper):
        def run(self, images: Sequence[Image], *, home: bool = True) -> Outputs:
            if threading.current_thread() is not threading.main_thread():
                raise Reject(Code.MODEL_FAILED, "no")
            return super().run(images)

    with pytest.raises(Reject):
        race({"only": [Broken(1), Broken(1)]}, IMAGES, batch=2, seconds=0.1, keep="only")
