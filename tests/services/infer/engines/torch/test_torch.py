"""The engine for exported programs against ONNX Runtime on the same network."""

from __future__ import annotations

import os
import signal
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the engine for exported programs wants PyTorch")

import services.infer.engines.torch as torch_engines  # noqa: E402 - they import it
from services.infer.engines import Engine, NoMemory, open_engines  # noqa: E402
from services.infer.engines.device import DeviceEngine  # noqa: E402
from services.infer.engines.torch.program import load_program  # noqa: E402
from tests import vits  # noqa: E402
from tests.networks import expected, save_network, weights  # noqa: E402
from tests.services.infer.engines.samples import images_of, planar, spec_of  # noqa: E402
from visionmesh.errors import Code, ConfigurationError, Fatal, Reject  # noqa: E402
from visionmesh.gpu.gpu import GpuMemoryError  # noqa: E402
from visionmesh.models.spec import Instance, ModelSpec  # noqa: E402

SEED = 3
DEVICES = ("cpu", "emulated")


class Means(torch.nn.Module):  # type: ignore[misc,name-defined]  # it has no types
    """What `save_network` writes: a 1x1 convolution, and its planes' means as scores."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.from_numpy(weights(SEED)).reshape(4, 3, 1, 1)
        self.kernel = torch.nn.Parameter(kernel)

    def forward(self, image: Any) -> Any:
        planes = torch.nn.functional.conv2d(image, self.kernel)
        return {"scores": planes.mean((2, 3))}


class Broken(torch.nn.Module):  # type: ignore[misc,name-defined]  # as above
    """It looks up a place that is not there for one colour."""

    def forward(self, image: Any) -> Any:
        place = image.amax((1, 2, 3)).long() // 250
        return {"scores": torch.ones(1, 4).to(image.device)[place]}


def saved(network: Any, file: Path, *, batch: int | None = None) -> Path:
    shapes = None if batch else ({0: torch.export.Dim("N", min=1, max=256)},)
    images = (torch.rand(batch or 2, 3, 8, 6),)
    torch.export.save(torch.export.export(network.eval(), images, dynamic_shapes=shapes), str(file))
    return file


def opened(
    file: Path,
    *,
    device: str = "cpu",
    count: int = 1,
    spec: ModelSpec | None = None,
    **options: Any,
) -> tuple[Engine, ...]:
    instance = Instance(device=device, options=options)
    return open_engines(file, spec or spec_of(), instance, count=count, engine="torch")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Means(), tmp_path_factory.mktemp("means") / "means.onnx.pt2")


@pytest.mark.parametrize("device", DEVICES)
def test_it_says_what_onnx_runtime_says(tmp_path: Path, program: Path, device: str) -> None:
    (reference,) = open_engines(
        save_network(tmp_path / "m.onnx", seed=SEED), spec_of(), Instance(), count=1
    )
    (engine,) = opened(program, device=device)
    engine.warm()
    for count in (1, 2, 3, 4):
        images = images_of(count, seed=count)
        outputs = engine.run(images)
        assert outputs.keys() == {"scores"}
        np.testing.assert_allclose(outputs["scores"], reference.run(images)["scores"], rtol=1e-4)
    engine.close()


@pytest.mark.parametrize("device", DEVICES)
def test_a_program_for_one_size_is_filled_up(tmp_path: Path, device: str) -> None:
    (engine,) = opened(saved(Means(), tmp_path / "means.pt2", batch=3), device=device)
    assert engine.batch_sizes == (3,)
    images = images_of(2)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), SEED), rtol=1e-4
    )
    engine.close()


def test_outputs_may_stay_on_the_device(program: Path) -> None:
    (engine,) = opened(program, device="emulated")
    first, second = images_of(2), images_of(2, seed=1)
    kept = engine.run(first, home=False)["scores"]
    engine.run(second)
    np.testing.assert_allclose(kept, expected(planar(first), SEED), rtol=1e-4)
    engine.close()


@pytest.mark.parametrize("fits", [0, 1])
def test_without_memory_for_all_engines_none_stays(
    program: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    made: list[DeviceEngine] = []
    closed = []

    def limited(**arguments: Any) -> DeviceEngine:
        if len(made) == fits:
            raise GpuMemoryError("full")
        made.append(DeviceEngine(**arguments))
        return made[-1]

    monkeypatch.setattr(torch_engines, "DeviceEngine", limited)
    monkeypatch.setattr(torch_engines, "_nothing", lambda: closed.append("weights"))
    with pytest.raises(NoMemory, match="full"):
        opened(program, device="emulated", count=2)
    assert closed == ["weights"]
    assert all(engine._network is None for engine in made)


def test_several_engines_run_at_the_same_time(program: Path) -> None:
    engines = opened(program, count=3)
    answers: dict[int, Any] = {}

    def work(number: int) -> None:
        answers[number] = engines[number].run(images_of(4, seed=number))["scores"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, scores in answers.items():
        right = expected(planar(images_of(4, seed=number)), SEED)
        np.testing.assert_allclose(scores, right, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by PyTorch, of itself
def test_a_compiled_program_says_the_same(program: Path) -> None:
    (engine,) = opened(program, spec=spec_of(max_size=2), compile=True)
    engine.warm()
    images = images_of(2)
    np.testing.assert_allclose(
        engine.run(images)["scores"], expected(planar(images), SEED), rtol=1e-4
    )


def test_under_autocast_weights_are_kept_in_halves(vit: Path) -> None:
    network = vits.Vit()
    whole = load_program(vit, name="vit").network
    halved = load_program(vit, name="vit", halves=torch.float16).network
    layers = [module for module in network.modules() if hasattr(module, "in_features")]
    shrunk = sum(each.nbytes for layer in (*layers, network.patches) for each in layer.parameters())
    assert vits.held_bytes(whole) - vits.held_bytes(halved) == shrunk // 2


def test_autocast_rounds(program: Path) -> None:
    (engine,) = opened(program, autocast="bfloat16")
    images = images_of(2)
    scores, right = engine.run(images)["scores"], expected(planar(images), SEED)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, right, atol=0.02 * np.abs(right).max())
    assert not np.allclose(scores, right, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_an_image_that_the_network_fails_on_is_rejected_alone(tmp_path: Path, device: str) -> None:
    (engine,) = opened(saved(Broken(), tmp_path / "broken.pt2"), device=device)
    dark, bright = np.zeros((8, 6, 3), np.uint8), np.full((8, 6, 3), 255, np.uint8)
    with pytest.raises(Reject, match="fails on the image") as raised:
        engine.run([bright])
    assert raised.value.code is Code.MODEL_FAILED
    np.testing.assert_array_equal(engine.run([dark])["scores"], np.ones((1, 4)))


def vit_spec() -> ModelSpec:
    side = vits.SIZE
    return spec_of(max_size=2, width=side, height=side, scale=1 / 255)


def test_two_ranks_serve_all_engines(vit: Path) -> None:
    engines = [
        engine
        for device in DEVICES
        for engine in opened(vit, device=device, count=2, spec=vit_spec(), tensor_parallel=2)
    ]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (vits.SIZE, vits.SIZE, 3), np.uint8) for _ in range(2)]
    batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    right = vits.answer_of(vits.Vit(), batch)["scores"]
    for engine in engines:
        engine.warm()
        assert np.abs(engine.run(images)["scores"] - right).max() <= 1e-4
    (other,) = engines[-1]._network._run._ranks._processes  # type: ignore[attr-defined]
    os.kill(other.pid, signal.SIGKILL)
    for engine in engines:
        with pytest.raises(Fatal, match=r"not work any more: rank 1 of 2 .* ended with code -9"):
            engine.run(images)
        engine.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compiled": True}, r"options\.compiled: .*; the engine torch knows: compile, mode"),
        ({"mode": "reduce-overhead"}, r"options\.mode: "),
        ({"tensor_parallel": 0}, r"options\.tensor_parallel: "),
    ],
)
def test_options_that_it_does_not_have_are_told(
    program: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        opened(program, **options)
    assert raised.value.code is Code.MODEL_INVALID


def test_a_program_for_other_images_is_told(program: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"takes images of float32 \(3, 8, 6\), where"):
        opened(program, spec=spec_of(width=7))


def test_a_program_without_names_of_its_outputs_is_told(tmp_path: Path) -> None:
    class Alone(Means):
        def forward(self, image: Any) -> Any:
            return super().forward(image)["scores"]

    with pytest.raises(ConfigurationError, match="must return a mapping of tensors by the names"):
        opened(saved(Alone(), tmp_path / "alone.pt2"))


def test_a_program_that_would_run_code_is_not_loaded(tmp_path: Path, program: Path) -> None:
    file = tmp_path / "evil.pt2"
    attack = "torch.os.system"
    content = program.read_bytes()
    target = b"torch.ops.aten.conv2d.default"
    assert target in content
    file.write_bytes(content.replace(target, attack.encode().ljust(len(target))))
    with pytest.raises(ConfigurationError) as raised:
        opened(file)
    assert raised.value.code in (Code.MODEL_UNSAFE, Code.MODEL_INVALID)


@pytest.mark.parametrize("example", [b"0.", b"\x80\x02N}b.", b"\x80\x02."])
def test_what_pytorch_cannot_make_sense_of_is_told(
    tmp_path: Path, program: Path, example: bytes
) -> None:
    file = tmp_path / "odd.pt2"
    with zipfile.ZipFile(program) as whole, zipfile.ZipFile(file, "w") as odd:
        for name in whole.namelist():
            is_example = name.endswith("sample_inputs/model.pt")
            odd.writestr(name, example if is_example else whole.read(name))
    with pytest.raises(ConfigurationError, match="cannot load the program") as raised:
        opened(file)
    assert raised.value.code is Code.MODEL_INVALID


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "broken.pt2"
    file.write_bytes(b"no program")
    with pytest.raises(ConfigurationError, match="is no exported program") as raised:
        opened(file)
    assert raised.value.code is Code.MODEL_INVALID
