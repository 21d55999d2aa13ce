"""Networks of PyTorch become ONNX that says the same, and no file runs code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="exporting needs the extra `tune`")
pytest.importorskip("onnxscript", reason="exporting needs the extra `tune`")

from visionmesh.errors import Code, ConfigurationError  # noqa: E402 - torch first
from visionmesh.models.importing import Imported, Wishes, import_model  # noqa: E402 - as above
from visionmesh.models.spec import Task  # noqa: E402 - as above

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own

WIDTH, HEIGHT = 16, 12
SIZE = {"input.width": WIDTH, "input.height": HEIGHT}


class Trees(torch.nn.Module):  # type: ignore[misc,name-defined]  # it has no types
    """A small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, images: Any) -> Any:
        planes = self.norm(self.stem(images)).relu()
        return self.head(planes.flatten(2).mean(2).view(images.shape[0], -1))


class Batched(torch.nn.Module):  # type: ignore[misc,name-defined]  # as above
    """Says of an image how it differs from the others of its batch."""

    def forward(self, images: Any) -> Any:
        means = images.mean((2, 3))
        return means.reshape(int(means.shape[0]), 3) - means.mean(0)


def trees() -> Trees:
    torch.manual_seed(0)
    return Trees()


def brought(source: str | Path, folder: Path, **wishes: Any) -> Imported:
    wanted = Wishes(**{"name": "trees", "task": Task.CLASSIFICATION, "values": SIZE, **wishes})
    return import_model(str(source), wanted, models=folder / "models")


def here(name: str) -> str:
    return f"{__name__}:{name}"


def answer(done: Imported, images: Any) -> Any:
    session = onnxruntime.InferenceSession(done.folder / "1" / "model.onnx")
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def require_same(done: Imported, network: Any) -> None:
    """Compare with the original at batches of 1, 2 and 7."""
    assert done.batch is None
    for size in (1, 2, 7):
        images = torch.rand(size, 3, HEIGHT, WIDTH)
        with torch.no_grad():
            wanted = network.eval()(images).numpy()
        np.testing.assert_allclose(answer(done, images), wanted, atol=1e-5)


def require_program(done: Imported, network: Any, *sizes: int) -> None:
    """Compare what is kept for PyTorch with the original."""
    with (done.folder / "1" / "model.pt2").open("rb") as file:
        program = torch.export.load(file).module()
    session = onnxruntime.InferenceSession(done.folder / "1" / "model.onnx")
    (name,) = [output.name for output in session.get_outputs()]
    for size in sizes:
        images = torch.rand(size, 3, HEIGHT, WIDTH)
        with torch.no_grad():
            torch.testing.assert_close(program(images)[name], network.eval()(images))


def test_a_network_that_a_function_makes_and_a_checkpoint_fills(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = Trees()
    torch.save({"state_dict": other.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    done = brought(here("trees"), tmp_path, weights=tmp_path / "w.pth")
    require_same(done, other)
    assert done.facts["output.decoder"].value == "softmax"
    require_program(done, other, 1, 2, 7)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trees` as an exported program with a free batch."""
    file = tmp_path_factory.mktemp("program") / "trees.pt2"
    shapes = ({0: torch.export.Dim("batch")},)
    images = (torch.rand(2, 3, HEIGHT, WIDTH),)
    torch.export.save(torch.export.export(trees().eval(), images, dynamic_shapes=shapes), file)
    return file


def test_an_exported_program(tmp_path: Path, program: Path) -> None:
    done = brought(program, tmp_path, values={})
    require_same(done, trees())
    require_program(done, trees(), 1, 2, 7)


def test_an_exported_program_for_one_image(tmp_path: Path) -> None:
    alone = torch.export.export(trees().eval(), (torch.rand(1, 3, HEIGHT, WIDTH),))
    torch.export.save(alone, tmp_path / "trees.pt2")
    done = brought(tmp_path / "trees.pt2", tmp_path, values={})
    require_same(done, trees())
    require_program(done, trees(), 1)


def test_torchscript(tmp_path: Path) -> None:
    network = trees().eval()
    script = torch.jit.trace(network, torch.rand(1, 3, HEIGHT, WIDTH))
    script.save(tmp_path / "trees.pt")
    done = brought(tmp_path / "trees.pt", tmp_path)
    require_same(done, network)
    assert not (done.folder / "1" / "model.pt2").exists()


def test_a_network_that_mixes_images_gets_a_batch_of_one(tmp_path: Path) -> None:
    done = brought(here("Batched"), tmp_path)
    assert done.batch == 1
    assert "the batch is 1" in done.notes[0]
    require_program(done, Batched(), 1)


def test_a_pickled_network_is_refused_by_name_and_not_loaded(tmp_path: Path) -> None:
    torch.save(trees(), tmp_path / "whole.pt")
    with pytest.raises(ConfigurationError, match=r"wants to run code: .*Trees") as raised:
        brought(tmp_path / "whole.pt", tmp_path)
    assert raised.value.code is Code.MODEL_UNSAFE


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": trees().state_dict(), "model": trees()}, tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"wants to run code: .*Trees"):
        brought(here("Trees"), tmp_path, weights=tmp_path / "w.pth")


def test_weights_alone_are_no_network(tmp_path: Path) -> None:
    torch.save(trees().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"module:callable --weights w\.pth"):
        brought(tmp_path / "w.pth", tmp_path)


def test_a_program_that_computes_sizes_by_calls_is_refused(tmp_path: Path, program: Path) -> None:
    attack = f"__import__('os').system('touch {tmp_path}/touched')"
    with (
        zipfile.ZipFile(program) as good,
        zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad,
    ):
        changed = 0
        for member in good.namelist():
            content = good.read(member)
            if member.endswith("models/model.json"):
                before, _, rest = content.decode().partition('"expr_str": "')
                _, _, after = rest.partition('"')
                content = f'{before}"expr_str": "{attack}"{after}'.encode()
                changed += 1
            bad.writestr(member, content)
    assert changed == 1
    with pytest.raises(ConfigurationError, match=r"run code as a size: .__import__") as raised:
        brought(tmp_path / "bad.pt2", tmp_path)
    assert raised.value.code is Code.MODEL_UNSAFE
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.at_all:net", "cannot be called: ModuleNotFoundError: No module named 'nowhere'"),
        (here("absent"), "cannot be called: .*absent"),
        ("os:getcwd", r"returns str; it must return an nn\.Module"),
        ("operator:add", "cannot be called: "),
    ],
)
def test_a_function_that_makes_no_network_is_told(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        brought(source, tmp_path)


def test_the_size_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="say it with --input"):
        brought(here("trees"), tmp_path, values={})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigurationError, match=r"do not fit the network: .*Missing key"):
        brought(here("Trees"), tmp_path, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_weights_that_are_cut_short_are_refused(tmp_path: Path, share: float) -> None:
    torch.save(trees().state_dict(), tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigurationError, match=r"cannot be read|no plain state dict") as raised:
        brought(here("Trees"), tmp_path, weights=tmp_path / "w.pth")
    assert raised.value.code in {Code.MODEL_INVALID, Code.MODEL_UNSAFE}
