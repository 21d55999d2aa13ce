"""ONNX Runtime with bound memory: what it answers, what it is asked for, and what it gives back.

What only a GPU can do is pretended here where it changes which code runs: sessions of the CPU take
the number of a graph as well, and record nothing.
"""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from services.infer.engines import Engine, NoMemory, onnxruntime_provider, open_engines
from services.infer.engines.onnxruntime_device import _Driver
from tests.networks import save_network
from tests.services.infer.engines.samples import (
    Array,
    images_of,
    rss,
    save,
    save_folding,
    save_wide,
    spec_of,
)
from tests.services.infer.engines.test_device import on_device
from visionmesh.errors import ConfigurationError, Reject
from visionmesh.gpu import Gpu, GpuError
from visionmesh.models.spec import Instance
from visionmesh.models.variants import Precision


def opened(device: str, file: Path, **options: Any) -> tuple[Engine, ...]:
    return open_engines(file, spec_of(), Instance(device=device, options=options), count=2)


@pytest.mark.parametrize("home", [True, False])
def test_outputs_may_have_shapes_that_depend_on_the_image(
    gpu_device: str, gpu: Gpu, tmp_path: Path, home: bool
) -> None:
    engine, _ = opened(gpu_device, save_folding(tmp_path / "m.onnx"))
    engine.warm()
    for width in (6, 48):
        images = [np.full((8, 6, 3), width, np.uint8), np.zeros((8, 6, 3), np.uint8)]
        outputs = engine.run(on_device(gpu, images), home=home)
        assert outputs["found"].shape == outputs["sure"].shape == (2, 144 // width, width)
        assert outputs["flat"].shape == (2, 144)
        assert outputs["sure"].dtype == bool
        assert float(outputs["found"].sum()) == float(outputs["flat"].sum()) == 144 * width
    with pytest.raises(Reject, match="fails on the image"):
        engine.run([np.full((8, 6, 3), 200, np.uint8)])


def test_all_slots_share_the_weights_and_the_last_one_gives_them_back(
    gpu_device: str, tmp_path: Path
) -> None:
    size = save_wide(tmp_path / "m.onnx")
    before = rss()
    first, second = opened(gpu_device, tmp_path / "m.onnx")
    for engine in (first, second):
        engine.warm()
    assert 0.9 * size < rss() - before < 2.5 * size
    first.close()
    assert second.run(images_of(1))["found"].shape == (1, 100_000)
    second.close()
    assert rss() - before < 0.5 * size


def test_the_thread_of_a_session_ends_with_it_and_keeps_no_process_alive(
    gpu_device: str, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    engines = opened(gpu_device, save_network(tmp_path / "m.onnx"))
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    for engine in engines:
        assert thread.is_alive()
        engine.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_failed_call_keeps_nothing_of_what_it_had_in_hand(
    gpu_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers: list[_Driver] = []
    leave = _Driver.leave

    def noted(self: _Driver) -> None:
        drivers.append(self)
        leave(self)

    monkeypatch.setattr(_Driver, "leave", noted)
    first, last = opened(gpu_device, save_network(tmp_path / "m.onnx"))
    first.close()
    in_hand: list[weakref.ref[Array]] = []

    def fail(images: Array) -> None:
        in_hand.append(weakref.ref(images))
        raise ValueError("no memory")

    gc.disable()
    try:
        with suppress(ValueError):
            drivers[0].do(fail, np.zeros(3))
        drivers[0].do(int)  # the thread is done with the other call
        assert [one() for one in in_hand] == [None]
    finally:
        gc.enable()
    last.close()


def test_a_precision_that_it_cannot_compute_in_is_refused(gpu_device: str, tmp_path: Path) -> None:
    file = save_network(tmp_path / "m.onnx")
    with pytest.raises(ConfigurationError, match="in bf16"):
        open_engines(
            *(file, spec_of(), Instance(device=gpu_device)), count=1, precision=Precision.BF16
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"beads": 3}, r"options\.beads: this key is not known"),
        ({"provider": "abacus"}, r"options\.provider: Input should be 'cuda' or"),
        ({"gpu_mem_limit": 0}, r"options\.gpu_mem_limit: .*greater than"),
    ],
)
def test_options_that_there_are_not_are_told(
    gpu_device: str, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        opened(gpu_device, save_network(tmp_path / "m.onnx"), **options)


def test_a_file_that_is_no_network_is_refused(gpu_device: str, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(ConfigurationError, match="cannot load model 'trees'"):
        opened(gpu_device, file)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sessions taken for such that record graphs."""
    monkeypatch.setattr(onnxruntime_provider, "_has_graphs", lambda *_: True)


def test_each_slot_and_batch_size_has_a_graph_of_its_own(
    gpu_device: str, tmp_path: Path, recording: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = _Driver.run

    def watched(self: _Driver, binding: Any, *, graph: int) -> None:
        ran.append(graph)
        run(self, binding, graph=graph)

    monkeypatch.setattr(_Driver, "run", watched)
    file = save(
        tmp_path / "m.onnx",
        [helper.make_node("Flatten", ["image"], ["flat"])],
        {"flat": ["n", "as many as there are"]},
    )
    first, second = opened(gpu_device, file)
    for engine in (first, second):
        engine.warm()
    # Each is tried without a graph first, which tells the shapes.
    assert ran == [-1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6]
    ran.clear()
    images = images_of(3)
    flat = second.run(images)["flat"]
    assert ran == [6]
    np.testing.assert_array_equal(flat, [image.transpose(2, 0, 1).ravel() for image in images])


def test_what_cannot_be_recorded_runs_without_graphs(
    gpu_device: str,
    tmp_path: Path,
    recording: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = _Driver.run

    def refusing(self: _Driver, binding: Any, *, graph: int) -> None:
        if graph > 1:
            raise GpuError("operation not permitted when stream is capturing")
        run(self, binding, graph=graph)

    monkeypatch.setattr(_Driver, "run", refusing)
    first, second = opened(gpu_device, save_network(tmp_path / "m.onnx"))
    first.warm()
    assert "goes on without: operation not permitted" in caplog.text
    second.warm()
    for engine in (first, second):
        images = images_of(3)
        np.testing.assert_array_equal(
            engine.run(images)["scores"], second.run(on_second(images))["scores"]
        )


def on_second(images: list[Array]) -> list[Array]:
    return [image.copy() for image in images]


def test_too_little_memory_for_the_weights_is_no_fault_of_the_network(
    gpu_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_network(tmp_path / "m.onnx")

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(NoMemory, match="out of memory"):
        opened(gpu_device, file)
