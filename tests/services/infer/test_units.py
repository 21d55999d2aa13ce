"""How many images run at once."""

from __future__ import annotations

import pytest

from services.infer.units import Units, fitting


@pytest.mark.parametrize(
    ("sizes", "wanted", "fit"),
    [
        ((1, 2, 3, 4), 3, 3),
        ((1, 2, 4, 8), 3, 3),
        ((1, 2, 4, 8), 5, 4),
        ((1, 2, 4, 8), 6, 6),
        ((1, 2, 4, 8), 8, 8),
        ((1, 2, 4, 8), 9, 8),
        ((1, 2, 4, 8, 12), 11, 11),
        ((4,), 1, 1),
        ((4,), 4, 4),
    ],
)
def test_a_batch_is_a_size_that_there_is_or_nearly_fills_one(
    sizes: tuple[int, ...], wanted: int, fit: int
) -> None:
    assert fitting(sizes, wanted) == fit


def test_engines_on_one_unit_know_what_is_at_work_there() -> None:
    units = Units(("a", "a", "b"))
    running = {0: [1, 2, 3]}
    assert units.shared
    assert (units.ahead(1, running), units.ahead(2, running)) == (3, 0)
    assert units.free(2, {1}, running) == 1
    assert units.free(1, {2}, running) == 2
    assert not Units(range(3)).shared
