"""Tensor parallelism over two real processes, by gloo, against the network as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

from services.infer.engines.host import NetworkError  # noqa: E402 - they import it
from services.infer.engines.torch import parallel  # noqa: E402
from services.infer.engines.torch.options import Options  # noqa: E402
from services.infer.engines.torch.parallel import ParallelRunner  # noqa: E402
from services.infer.engines.torch.program import load_program  # noqa: E402
from tests import vits  # noqa: E402
from visionmesh.errors import Code, ConfigurationError  # noqa: E402
from visionmesh.gpu.gpu import GpuMemoryError  # noqa: E402

CPU = torch.device("cpu")
SPLIT = Options(tensor_parallel=2, timeout=timedelta(seconds=20))


def images(count: int) -> Any:
    return torch.from_numpy(
        np.random.default_rng(count).random((count, 3, vits.SIZE, vits.SIZE), np.float32)
    )


def opened(file: Path, options: Options = SPLIT) -> ParallelRunner:
    return ParallelRunner(file, name="vit", device=CPU, options=options, threads=1)


@pytest.fixture(scope="module")
def ranks(vit: Path) -> Iterator[ParallelRunner]:
    """A network that keeps the other rank alive for those that come and go."""
    network = opened(vit)
    yield network
    network.close()


@pytest.mark.parametrize(
    ("attention", "mlp"),
    [(vits.Fused, vits.Gated), (vits.Separate, vits.Plain), (vits.Own, vits.Plain)],
)
def test_two_ranks_say_what_one_says(
    tmp_path: Path, ranks: ParallelRunner, attention: Any, mlp: Any
) -> None:
    whole = vits.Vit(attention, mlp, seed=1)
    split = opened(vits.save_program(whole, tmp_path / "vit.pt2"))
    try:
        for count in (1, 3):
            answer = split(images(count))["scores"].numpy()
            right = vits.answer_of(whole, images(count))["scores"]
            assert np.abs(answer - right).max() <= 1e-4
        assert len(split.part.shared) == 2 * vits.LAYERS
    finally:
        split.close()


def held(network: ParallelRunner) -> int:
    return vits.held_bytes(network.part.program.network)


def test_a_rank_holds_its_part_of_the_weights_only(vit: Path, ranks: ParallelRunner) -> None:
    block = vits.Block(vits.Fused, vits.Plain)
    layers = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
    weights = sum(layer.weight.nbytes for layer in layers)
    biases = block.attn.qkv.bias.nbytes + block.mlp.fc1.bias.nbytes
    whole = load_program(vit, name="vit").network
    assert vits.held_bytes(whole) - held(ranks) == vits.LAYERS * (weights + biases) // 2


def test_in_halves_ranks_say_nearly_the_same(tmp_path: Path, ranks: ParallelRunner) -> None:
    whole = vits.Vit(seed=4)
    file = vits.save_program(whole, tmp_path / "vit.pt2")
    split = opened(file, SPLIT.model_copy(update={"autocast": "bfloat16"}))
    try:
        assert held(split) < held(ranks) * 0.6
        answer, right = split(images(2))["scores"], vits.answer_of(whole, images(2))["scores"]
        assert answer.dtype is torch.float32
        assert np.abs(answer.numpy() - right).max() <= 0.05 * np.abs(right).max()
    finally:
        split.close()


def test_a_plan_says_which_layers_are_shared_out(tmp_path: Path, ranks: ParallelRunner) -> None:
    whole = vits.Vit(seed=2)
    file = vits.save_program(whole, tmp_path / "vit.pt2")
    split = opened(file, SPLIT.model_copy(update={"plan": "blocks.0.mlp.fc2, *.attn.proj"}))
    try:
        assert split.part.shared == (
            *("blocks.0.attn.proj", "blocks.0.mlp.fc2"),
            *(f"blocks.{layer}.attn.proj" for layer in range(1, vits.LAYERS)),
        )
        answer, right = split(images(2))["scores"], vits.answer_of(whole, images(2))["scores"]
        assert np.abs(answer.numpy() - right).max() <= 1e-4
    finally:
        split.close()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("*.qkv", r"blocks\.0\.attn\.qkv cannot be shared out: .* between it and the linear"),
        ("*.fc9", r"no layer is named '\*\.fc9'; those that can be shared out: blocks\.0\.attn"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(
    vit: Path, ranks: ParallelRunner, plan: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        opened(vit, SPLIT.model_copy(update={"plan": plan}))
    assert raised.value.code is Code.MODEL_INVALID
    assert ranks(images(1))["scores"].shape == (1, vits.CLASSES), "the others go on"


def test_heads_that_ranks_cannot_share_evenly_are_not_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vits, "HEADS", 1)
    whole = vits.Vit(seed=3)
    split = opened(vits.save_program(whole, tmp_path / "vit.pt2"))
    try:
        assert {layer.rpartition(".")[2] for layer in split.part.shared} == {"fc2"}
        answer, right = split(images(2))["scores"], vits.answer_of(whole, images(2))["scores"]
        assert np.abs(answer.numpy() - right).max() <= 1e-4
    finally:
        split.close()


def test_the_first_batch_of_a_size_may_take_as_long_as_loading(
    ranks: ParallelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, waits = ranks._ranks.together, []

    def recorded(*order: Any, own: Any, patience: timedelta) -> Any:
        waits.append(patience)
        return together(*order, own=own, patience=patience)

    with monkeypatch.context() as patch:
        patch.setattr(ranks._ranks, "together", recorded)
        for count in (5, 5, 6):
            ranks(images(count))
    assert waits == [SPLIT.load_timeout, SPLIT.timeout, SPLIT.load_timeout]


def test_the_group_waits_as_long_as_loading_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def refuse(devices: Any, *, threads: int, patience: timedelta) -> Any:
        waits.append(patience)
        raise NetworkError("no")

    monkeypatch.setattr(parallel, "_WORKER", parallel._Worker())
    monkeypatch.setattr(parallel, "Ranks", refuse)
    with pytest.raises(ConfigurationError, match="do not come together: no"):
        opened(tmp_path / "vit.pt2")
    assert waits == [SPLIT.load_timeout]


def test_too_little_memory_for_loading_is_told_as_that(
    tmp_path: Path, ranks: ParallelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise NetworkError("full") from torch.OutOfMemoryError("full")

    monkeypatch.setattr(ranks._ranks, "together", full)
    with pytest.raises(GpuMemoryError, match="full"):
        opened(tmp_path / "vit.pt2")
    assert parallel._WORKER._networks == 1, "it has left"


def test_too_little_memory_on_another_rank_is_told_as_that(
    ranks: ParallelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks._ranks, "lost", "")
    with pytest.raises(NetworkError, match="rank 1: full") as raised:
        ranks._ranks._require_same(None, {0: "", 1: torch.OutOfMemoryError("full")})
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_another_number_of_ranks_is_refused_while_some_are_there(
    vit: Path, ranks: ParallelRunner
) -> None:
    with pytest.raises(ConfigurationError, match="has ranks on cpu, cpu for another network"):
        opened(vit, SPLIT.model_copy(update={"tensor_parallel": 4}))


def test_a_network_with_nothing_to_share_out_is_refused(
    tmp_path: Path, ranks: ParallelRunner
) -> None:
    class Head(torch.nn.Module):  # type: ignore[misc,name-defined]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, pixels: Any) -> Any:
            return {"scores": self.head(pixels.mean((2, 3)))}

    file = vits.save_program(Head(), tmp_path / "head.pt2")
    with pytest.raises(ConfigurationError, match=r"nothing of it can be shared out .*head: mean"):
        opened(file)
