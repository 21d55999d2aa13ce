"""Which batch sizes are compiled."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.torch.options import Options  # noqa: E402 - they import it
from services.infer.engines.torch.runner import Runner  # noqa: E402

SIZES = range(1, 13)


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
