"""What runs a version on this node, and what is told of that which does not."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from services.infer.engines import NoMemory
from services.infer.loading import Loader
from services.infer.memory import NoRoom
from services.infer.opening import close_all
from services.infer.turns import Elsewhere
from tests.networks import save_folder, spoil_network
from tests.services.infer.conftest import image_of, load, pushed, right
from tests.services.infer.engines.samples import rss, save_wide
from tests.services.infer.gated import GatedEngine
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import open_gpu
from visionmesh.models.folder import load_folder
from visionmesh.models.registry import Registry


@pytest.fixture
async def loader(registry: Registry, tmp_path: Path) -> AsyncIterator[Loader]:
    loader = Loader(registry=registry, directory=tmp_path / "cache")
    yield loader
    loader.close()


async def test_an_instance_on_a_gpu_runs_as_many_engines_as_it_has_slots(
    registry: Registry, loader: Loader, tmp_path: Path, gpu_device: str
) -> None:
    record = await pushed(
        registry, tmp_path / "trees", more=f"instances: [{{device: {gpu_device}, slots: 3}}]\n"
    )
    loaded = await load(loader, record)
    assert (loaded.way.devices, loaded.way.engine) == ((gpu_device,), "onnxruntime")
    assert len(loaded.engines) == 3
    for engine in loaded.engines:
        np.testing.assert_allclose(engine.run([image_of(0)])["scores"][0], right(1), rtol=1e-4)
    await close_all(loaded.engines)


async def test_the_first_engine_that_works_runs_and_the_others_are_told(
    registry: Registry, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "services.infer.engines.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    record = await pushed(
        registry, tmp_path / "trees", more="instances: [{engines: [openvino, onnxruntime]}]\n"
    )
    loaded = await load(loader, record)
    assert loaded.way.engine == "onnxruntime"
    assert loaded.way.why.startswith("openvino on cpu: ")
    assert "pip install openvino" in loaded.way.why
    await close_all(loaded.engines)


LABELS = "labels: [ash, birch, cedar, dogwood]\n"
REFUSED = "{device: emulated, options: {provider: abacus}}"
STANDS_IN = "{device: cpu, count: 2, fallback: true}"


@pytest.mark.parametrize(
    ("instances", "why"),
    [
        (f"{REFUSED}, {{device: cpu, count: 2}}", "options.provider: Input should be"),
        (f"{STANDS_IN}, {REFUSED}", "options.provider: Input should be"),
        (f"{{device: 'cuda:77'}}, {STANDS_IN}", "GPU"),
    ],
    ids=["another", "one that stands in", "one that stands in for a device"],
)
async def test_where_no_engine_of_an_instance_works_another_instance_does(
    registry: Registry, loader: Loader, tmp_path: Path, instances: str, why: str
) -> None:
    record = await pushed(registry, tmp_path / "trees", more=f"instances: [{instances}]\n")
    loaded = await load(loader, record)
    assert (loaded.way.devices, len(loaded.engines)) == (("cpu",), 2)
    assert why in loaded.way.why
    await close_all(loaded.engines)


async def test_a_version_that_fails_everywhere_is_refused_with_every_reason(
    registry: Registry, loader: Loader, tmp_path: Path
) -> None:
    more = "instances: [{device: cpu, fallback: true}, {device: emulated}]\n"
    folder = save_folder(tmp_path / "trees", more=more)
    spoil_network(folder / "1" / "model.onnx")
    record = await registry.push(load_folder(folder), replace=True)
    with pytest.raises(ConfigurationError, match=r"batch of 2: .* answers 2 images"):
        await load(loader, record)


async def test_what_could_not_be_loaded_leaves_no_memory_behind(
    registry: Registry, loader: Loader, tmp_path: Path, gpu_device: str
) -> None:
    more = f"instances: [{{device: {gpu_device}}}]\n"
    folder = save_folder(tmp_path / "trees", more=more)
    described = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(described.replace(LABELS, ""))
    size = save_wide(folder / "1" / "model.onnx")
    spoil_network(folder / "1" / "model.onnx")
    record = await registry.push(load_folder(folder), replace=True)
    found = []
    for _ in range(4):
        with pytest.raises(ConfigurationError, match="does not run with a batch of 2"):
            await load(loader, record)
        found.append(rss())
    # The first time the file is fetched, too.
    assert found[-1] - found[0] < 0.5 * size


async def test_a_model_for_other_nodes_is_not_loaded(
    registry: Registry, loader: Loader, tmp_path: Path
) -> None:
    record = await pushed(registry, tmp_path / "trees", more="instances: [{device: 'cuda:77'}]\n")
    with pytest.raises(Elsewhere, match="is for other nodes"):
        await load(loader, record)


@pytest.mark.parametrize("busy", ["opening", "warming"])
async def test_engines_of_a_load_that_is_cancelled_are_closed_once_no_thread_uses_them(
    registry: Registry,
    loader: Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    busy: str,
) -> None:
    happened: list[str] = []
    reached, gate = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == busy:
            reached.set()
            assert gate.wait(20)
        happened.append(name)

    class Told(GatedEngine):
        def warm(self) -> None:
            step("warming")

        def close(self) -> None:
            happened.append("closed")

    def opened(*_: object, **__: object) -> tuple[Told]:
        step("opening")
        return (Told(),)

    monkeypatch.setattr("services.infer.opening.open_engines", opened)
    record = await pushed(registry, tmp_path / "trees")
    loading = asyncio.ensure_future(load(loader, record))
    assert await asyncio.to_thread(reached.wait, 20)

    for _ in range(2):
        loading.cancel()
        await asyncio.wait([loading], timeout=0.1)
    assert "closed" not in happened
    gate.set()

    with pytest.raises(asyncio.CancelledError):
        await loading
    assert happened[-2:] == [busy, "closed"]


class Narrow(GatedEngine):
    """An engine on a device whose memory turns out to be too small for its largest batches."""

    def warm(self) -> None:
        self.batch_sizes = self.batch_sizes[:1]


@pytest.mark.parametrize(("engine", "short"), [(Narrow, {"EMULATED-0"}), (GatedEngine, set())])
async def test_a_device_that_is_short_of_memory_for_large_batches_is_told(
    registry: Registry,
    loader: Loader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    engine: type[GatedEngine],
    short: set[str],
) -> None:
    monkeypatch.setattr("services.infer.opening.open_engines", lambda *_, **__: (engine(),))
    record = await pushed(registry, tmp_path / "trees", more="instances: [{device: emulated}]\n")
    assert (await load(loader, record)).short == short


async def test_what_an_empty_device_does_not_hold_is_too_large_and_else_has_to_wait(
    registry: Registry, loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*_: object, **__: object) -> None:
        raise NoMemory(Code.MODEL_INVALID, "9 GiB are wanted")

    monkeypatch.setattr("services.infer.opening.open_engines", lack)
    record = await pushed(registry, tmp_path / "trees", more="instances: [{device: emulated}]\n")
    with pytest.raises(ConfigurationError, match="too large for its GPU: 9 GiB are wanted"):
        await load(loader, record)
    others = open_gpu("emulated").share(1 << 30)
    with pytest.raises(NoRoom, match="has to wait until there is room: 9 GiB are wanted"):
        await load(loader, record)
    others.close()
