"""Which version answers, told and shown by the commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.mesh.conftest import write_classifier
from tests.networks import save_network
from tests.polling import until
from tests.visionmesh.cli.conftest import Finished, Run, finish
from visionmesh.cli.versions import size
from visionmesh.cpu import cpu_features, multiplies_bytes
from visionmesh.local import LocalMesh
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.variants import Artifact, Choice, Precision, Variants, write_variants

NAME = "twofold"


@pytest.fixture(scope="module")
async def folder(running: LocalMesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pushed model with two versions that disagree."""
    folder = write_classifier(
        tmp_path_factory.mktemp("models"), name=NAME, description="Tells insects from pets."
    )
    save_network(folder / "2" / "model.onnx", shape=("n", 3, 32, 32), seed=3)
    assert (await finish(running.settings.state_dir, "push", folder)).status == 0
    return folder


async def shown(run: Callable[[], Awaitable[Finished]], *parts: str) -> str:
    """Run a command until its output has all ``parts``: workers load in the background."""

    async def probe() -> str | None:
        out = (await run()).out
        return out if all(part in out for part in parts) else None

    return await until(probe, within=30)


async def test_a_model_is_shown_with_its_card_and_its_versions(
    visionmesh: Run, folder: Path
) -> None:
    out = await shown(lambda: visionmesh("show", NAME), "1 loaded")
    for part in (
        "Tells insects from pets.", "32x32 RGB float32, stretch", "decoder: softmax",
        "4: ant, bee, cat, dog", "100 %", "onnxruntime fp32", "as pushed",
    ):  # fmt: skip
        assert part in out
    [values] = (await visionmesh("show", NAME, "--json")).documents
    assert values["states"] == {"1": "not loaded", "2": "1 loaded"}


async def test_loaded_models_are_listed_with_their_memory(visionmesh: Run, folder: Path) -> None:
    out = await shown(lambda: visionmesh("ps"), "twofold:2", "MEMORY", "x onnxruntime fp32")
    assert "MODEL" in out
    nodes = (await visionmesh("ps", "--json")).documents
    loaded = [one for node in nodes for one in node["loaded"] if one["model"] == NAME]
    assert [(one["version"], one["devices"]) for one in loaded] == [(2, ["cpu"])]
    assert loaded[0]["memory_bytes"] >= 0


async def test_traffic_is_shared_out_shown_and_rolled_back(visionmesh: Run, folder: Path) -> None:
    told = await visionmesh("traffic", NAME, "1=90", "2=10", "--sticky", "source", "--json")
    [values] = told.documents
    assert values["weights"] == {"1": 90, "2": 10}
    assert (values["sticky"], values["before"]) == ("source", {"2": 1})

    out = await shown(lambda: visionmesh("traffic", NAME), "90 %", "10 %", "1 loaded")
    assert "sticky by source" in out

    [back] = (await visionmesh("rollback", NAME, "--json")).documents
    assert back["shares"] == {"2": 1}
    [shadowed] = (await visionmesh("traffic", NAME, "--shadow", "1", "--json")).documents
    assert (shadowed["shares"], shadowed["shadow"]) == ({"2": 1}, 1)
    assert "shadow" in (await visionmesh("traffic", NAME)).out
    [none] = (await visionmesh("traffic", NAME, "--shadow", "none", "--json")).documents
    assert none["shadow"] is None
    [newest] = (await visionmesh("traffic", NAME, "--newest", "--json")).documents
    assert newest["weights"] == {}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("1",), 2, "VERSION=WEIGHT"),
        (("1=lots",), 2, "VERSION=WEIGHT"),
        (("1=-3",), 2, "VERSION=WEIGHT"),
        (("1=1", "--newest"), 2, "--newest"),
        (("--sticky", "weather"), 2, "neither id nor source"),
        (("--shadow", "two"), 2, "no version"),
        (("7=1",), 1, "[unknown_version]"),
        (("1=0",), 1, "[invalid_traffic]"),
        (("--shadow", "2"), 1, "[invalid_traffic]"),
    ],
)
async def test_traffic_that_cannot_be_is_refused(
    visionmesh: Run, folder: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    finished = await visionmesh("traffic", NAME, *arguments)
    assert finished.status == status
    assert words in finished.err


async def test_two_versions_are_compared_on_images(
    visionmesh: Run, folder: Path, photos: Path
) -> None:
    [same] = (await visionmesh("compare", NAME, "1", "1", "--images", photos, "--json")).documents
    assert (same["images"], same["agreement"], same["equal"]) == (3, 1.0, 3)
    assert same["differences"] == []
    assert same["first"]["answered"] == 3
    assert 0 < same["first"]["p50_ms"] <= same["first"]["p99_ms"]
    [two] = (await visionmesh("compare", NAME, "1", "2", "--images", photos, "--json")).documents
    assert two["agreement"] < 1
    assert two["differences"][0]["file"] in {"a.jpg", "b.PNG", "more/c.webp"}
    table = (await visionmesh("compare", NAME, "1", "2", "--images", photos)).out
    assert "P99 MS" in table
    assert "onnxruntime fp32, 1 thread" in table


async def test_versions_are_compared_as_they_would_run_here(
    visionmesh: Run, tmp_path: Path, photos: Path
) -> None:
    folder = write_classifier(tmp_path, name="tuned")
    network = folder / "1" / "model.onnx"
    choice = Choice(
        engine="openvino", precision=Precision.FP32, file=network.name, threads=1, count=1,
        cpu=cpu_features(), images_per_s=200, baseline_per_s=100,
    )  # fmt: skip
    write_variants(network.parent, Variants(of=file_sha256(network), choice=choice))
    save_network(folder / "2" / "model.onnx", shape=("n", 3, 32, 32), seed=3)
    assert (await visionmesh("push", folder)).status == 0
    compare = ("compare", "tuned", "1", "2", "--images", photos)

    [here] = (await visionmesh(*compare, "--json")).documents
    [plain] = (await visionmesh(*compare, "--plain", "--json")).documents
    table = (await visionmesh(*compare)).out

    assert here["first"]["ran"] == "openvino fp32, 1 thread"
    assert here["second"]["ran"] == "onnxruntime fp32, 1 thread"
    assert here["second"]["why"] == "it was not tuned"
    assert {plain[side]["ran"] for side in ("first", "second")} == {here["second"]["ran"]}
    assert "openvino fp32, 1 thread" in table


async def test_a_version_that_is_named_twice_is_refused(visionmesh: Run) -> None:
    finished = await visionmesh("traffic", NAME, "1=90", "1=10")
    assert finished.status == 2
    assert "named twice" in finished.err


async def test_variants_of_another_network_are_named(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="changed")
    (folder / "1" / "variants.json").write_text('{"of": "' + "0" * 64 + '"}')
    finished = await visionmesh("push", folder)
    assert finished.status == 0
    assert "changed/1: variants.json is of another network" in finished.err


@pytest.mark.skipif(
    not multiplies_bytes(cpu_features()), reason="INT8 runs by itself only on a CPU made for it"
)
async def test_a_push_and_show_tell_that_the_int8_network_runs(
    visionmesh: Run, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="smaller")
    network = folder / "1" / "model.onnx"
    save_network(folder / "2" / "model.onnx", shape=("n", 3, 32, 32), seed=3)
    file = save_network(network.with_name("model.int8.onnx"), shape=("n", 3, 32, 32))
    artifact = Artifact(
        file=file.name, precision=Precision.INT8, scheme="u8s8", sha256=file_sha256(file),
        size_bytes=file.stat().st_size, faster=2.5, right=True,
    )  # fmt: skip
    write_variants(network.parent, Variants(of=file_sha256(network), artifacts=(artifact,)))

    other = await visionmesh("push", folder, "--version", "2")
    pushed = await visionmesh("push", folder, "--version", "1")

    assert (other.status, other.out) == (0, "smaller: versions 2\n")
    told = "smaller/1: on a CPU like this one onnxruntime int8, 1 thread (its INT8 network was 2.50"
    assert told in pushed.out
    await visionmesh("traffic", "smaller", "1=1")
    out = await shown(lambda: visionmesh("show", "smaller"), "onnxruntime int8")
    assert "as pushed, int8 u8s8" in out


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (3_661_849, "3.66 MB")]
)
def test_sizes_are_told_in_three_digits(count: int, text: str) -> None:
    assert size(count) == text


async def test_versions_are_pushed_replaced_and_removed_one_by_one(
    visionmesh: Run, running: LocalMesh, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="threefold")
    for version in (2, 3):
        save_network(folder / str(version) / "model.onnx", shape=("n", 3, 32, 32), seed=version)
    one = await visionmesh("push", folder, "--version", "1")
    assert one.out == "threefold: versions 1\n"
    await visionmesh("push", folder, "--version", "2")
    await visionmesh("traffic", "threefold", "2=1")
    three = await visionmesh("push", folder)
    assert three.out == "threefold: versions 1, 2, 3\n"
    assert "goes to version 2 as told before, none to 3" in three.err

    save_network(folder / "1" / "model.onnx", shape=("n", 3, 32, 32), seed=9)
    refused = await visionmesh("push", folder)
    assert (refused.status, "[version_exists]" in refused.err) == (1, True)
    assert (await visionmesh("push", folder, "--replace")).status == 0

    assert (await visionmesh("rm", "threefold", "--version", "1")).status == 0
    kept = await visionmesh("rm", "threefold", "--version", "2")
    assert (kept.status, "[invalid_traffic]" in kept.err) == (1, True)
    [left] = (await visionmesh("show", "threefold", "--json")).documents
    assert list(left["versions"]) == ["2", "3"]
    assert (await visionmesh("rm", "threefold")).status == 0


async def test_why_a_version_fails_is_told_below_the_tables(
    visionmesh: Run, running: LocalMesh, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, name="fails", output={"decoder": "no_such_package:decoder"})
    pushed = await visionmesh("push", folder, "--no-check")
    assert pushed.status == 1
    assert "Version 1 of fails is stored, but cannot be served: Model 'fails', dec" in pushed.err
    told = "fails/1 fails in postprocess: Model 'fails', decoder"
    assert told in await shown(lambda: visionmesh("show", "fails"), "fails/1 fails in")
    assert told in await shown(lambda: visionmesh("ps"), "fails/1 fails in")
    [values] = (await visionmesh("show", "fails", "--json")).documents
    assert values["states"] == {"1": "failed"}
    assert values["failures"][0]["stage"] == "postprocess"
    assert (await visionmesh("rm", "fails")).status == 0


async def test_a_push_says_how_labels_and_network_differ(visionmesh: Run, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, name="labels", labels=["ant", "bee", "cat"])
    finished = await visionmesh("push", folder)
    assert finished.status == 2
    assert "model.yaml has 3 labels, but the network tells 4 classes apart" in finished.err
