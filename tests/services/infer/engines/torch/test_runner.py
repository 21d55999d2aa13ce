"""Which batch sizes are compiled, and which are captured as graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.torch.options import Options  # noqa: E402 - they import it
from services.infer.engines.torch.runner import Runner  # noqa: E402

SIZES = range(1, 13)
GPU = torch.device("cuda", 1)


class Doubling(torch.nn.Module):  # type: ignore[misc,name-defined]  # it has no types
    def forward(self, images: Any) -> Any:
        return {"double": images * 2}


def test_every_batch_size_is_compiled_also_by_another_thread_than_the_one_that_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[int] = []

    def note(graph: Any, images: list[Any]) -> Any:
        compiled.append(len(images[0]))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=note))
    network = torch.fx.symbolic_trace(Doubling())
    runner = Runner(network, device=torch.device("cpu"), options=Options(compile=True))
    thread = threading.Thread(target=lambda: [runner(torch.ones(size, 3)) for size in SIZES])
    thread.start()
    thread.join()
    assert compiled == list(SIZES)


def runner_with_graphs(monkeypatch: pytest.MonkeyPatch, capture: Callable[..., Any]) -> Runner:
    """Return one for a GPU that need not be there, whose graphs ``capture`` makes."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: (object(), device))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", MagicMock)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: (None, device))
    return Runner(torch.fx.symbolic_trace(Doubling()), device=GPU, options=Options())


def test_graphs_are_captured_on_a_stream_of_their_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures: list[dict[str, Any]] = []

    def capture(graph: Any, **arguments: Any) -> Any:
        captures.append(arguments)
        return nullcontext()

    runner = runner_with_graphs(monkeypatch, capture)
    for one in (runner, runner.another()):
        for count in (1, 2):
            one(torch.zeros(count, 3))
    streams = [arguments["stream"] for arguments in captures]
    assert {where for _, where in streams} == {GPU}
    assert streams[0] is streams[1] is not streams[2], "who shares memory shares the stream"
    assert streams[2] is streams[3]


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        ("CUDA error: operation not permitted when stream is capturing", True),
        ("CUDA error: out of memory", False),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False),
    ],
)
def test_what_cannot_be_captured_runs_without_graphs_unless_memory_lacks(
    monkeypatch: pytest.MonkeyPatch, error: str, goes_on: bool
) -> None:
    captures = []

    @contextmanager
    def capture(graph: Any, **arguments: Any) -> Iterator[None]:
        captures.append(graph)
        yield
        raise RuntimeError(error)

    runner = runner_with_graphs(monkeypatch, capture)
    left: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_stream", left.append)
    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda *told: left.append(told[0]), raising=False
    )
    for size in (1, 2):
        with nullcontext() if goes_on else pytest.raises(RuntimeError, match=error[:5]):
            assert runner(torch.ones(size, 3))["double"].tolist() == [[2.0] * 3] * size
    assert len(captures) == (1 if goes_on else 2)
    assert left == [(None, GPU), GPU.index] * len(captures)
