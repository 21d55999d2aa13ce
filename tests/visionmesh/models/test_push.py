"""What a push makes of what the mesh has."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from tests.networks import save_folder, save_network
from tests.programs import document, written
from tests.visionmesh.models.conftest import stored
from visionmesh.embedded import NatsServer
from visionmesh.errors import Code, ConfigurationError, Refused
from visionmesh.models.artifacts import file_sha256
from visionmesh.models.folder import load_folder
from visionmesh.models.record import ModelRecord
from visionmesh.models.registry import Registry
from visionmesh.models.traffic import Sticky
from visionmesh.models.variants import Artifact, Precision, Variants, write_variants


async def test_a_second_push_of_the_same_folder_writes_nothing(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    folder = load_folder(save_folder(tmp_path / "trees"))
    first = await registry.push(folder)
    before = await stored(nc), await nc.jetstream().stream_info("KV_vm_models")

    assert await registry.push(folder) == first

    after = await stored(nc), await nc.jetstream().stream_info("KV_vm_models")
    assert after[0] == before[0]
    assert after[1].state.last_seq == before[1].state.last_seq


async def test_versions_are_added_and_replaced_one_by_one(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees", versions=(1, 2))
    first = await registry.push(load_folder(path), version=1)
    assert list(first.versions) == [1]

    both = await registry.push(load_folder(path))
    assert both.versions[1] == first.versions[1]
    assert both.newest == 2

    chunks, _ = await stored(nc)
    save_network(path / "2" / "model.onnx", seed=22)
    with pytest.raises(Refused, match="name this one 3, so that there is a way back") as refused:
        await registry.push(load_folder(path))
    assert refused.value.code is Code.VERSION_EXISTS
    assert await registry.get("trees") == both

    replaced = await registry.push(load_folder(path), replace=True)
    assert replaced.versions[2].sha256 != both.versions[2].sha256
    assert (await stored(nc))[0] == chunks, "the replaced file is freed"


async def test_a_version_keeps_what_it_was_pushed_with(registry: Registry, tmp_path: Path) -> None:
    path = save_folder(tmp_path / "trees", versions=(1, 2))
    first = await registry.push(load_folder(path), version=1)
    file = path / "model.yaml"
    file.write_text(file.read_text().replace("ash, birch", "elm, fir"))
    both = await registry.push(load_folder(path), version=2)
    assert both.versions[1] == first.versions[1]
    assert both.spec_of(1).labels == ("ash", "birch", "cedar", "dogwood")
    assert both.spec_of(2) == both.spec == load_folder(path).spec

    again = await registry.push(load_folder(path))
    assert again.spec_of(1).labels == ("elm", "fir", "cedar", "dogwood"), (
        "the folder speaks for what is in it"
    )


async def test_another_task_is_another_model(registry: Registry, tmp_path: Path) -> None:
    path = save_folder(tmp_path / "trees", versions=(1, 2))
    pushed = await registry.push(load_folder(path), version=1)
    file = path / "model.yaml"
    file.write_text(file.read_text().replace("classification", "embedding"))
    with pytest.raises(Refused, match="does classification in the mesh") as refused:
        await registry.push(load_folder(path), version=2)
    assert refused.value.code is Code.MODEL_EXISTS
    assert await registry.get("trees") == pushed


async def test_pushes_at_the_same_time_lose_no_version(server: NatsServer, tmp_path: Path) -> None:
    folder = load_folder(save_folder(tmp_path / "trees", versions=(1, 2, 3, 4)))
    clients = [await nats.connect(server.url) for _ in folder.versions]

    await asyncio.gather(
        *(
            Registry(client).push(folder, version=version)
            for client, version in zip(clients, folder.versions, strict=True)
        )
    )

    assert list((await Registry(clients[0]).get("trees")).versions) == [1, 2, 3, 4]
    for client in clients:
        await client.close()


async def test_a_network_that_does_not_fit_is_not_stored(
    registry: Registry, tmp_path: Path
) -> None:
    folder = load_folder(save_folder(tmp_path / "trees", shape=("n", 3, 5, 5)))
    with pytest.raises(ConfigurationError, match=r"trees/1/model\.onnx: input"):
        await registry.push(folder)
    assert await registry.list() == ()


async def test_traffic_for_a_missing_version_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = load_folder(save_folder(tmp_path / "trees", more="traffic: {1: 9, 2: 1}\n"))
    with pytest.raises(ConfigurationError, match="there is no version 2; push it"):
        await registry.push(folder)


def add_variant(version: Path, *, of: str | None = None) -> Variants:
    """Write a second file and ``variants.json`` beside ``model.onnx``; the file is no network."""
    file = version / "int8.onnx"
    file.write_bytes(os.urandom(1000))
    variants = Variants(
        of=of or file_sha256(version / "model.onnx"),
        artifacts=(
            Artifact(
                file=file.name,
                precision=Precision.INT8,
                scheme="u8s8",
                sha256=file_sha256(file),
                size_bytes=1000,
            ),
        ),
    )
    write_variants(version, variants)
    return variants


async def test_the_variants_of_a_version_are_stored_and_freed_with_it(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees")
    plain = await registry.push(load_folder(path))
    variants = add_variant(path / "1")

    record = await registry.push(load_folder(path))

    assert record.versions[1].variants == variants
    assert record.versions[1].pushed_at == plain.versions[1].pushed_at
    assert record.versions[1].features_digest != plain.versions[1].features_digest, (
        "other precisions, other features"
    )
    fetched = await registry.fetch(variants.artifacts[0].sha256, directory=tmp_path / "cache")
    assert fetched.read_bytes() == (path / "1" / "int8.onnx").read_bytes()
    (path / "1" / "variants.json").unlink()
    assert (await registry.push(load_folder(path))).versions[1] == plain.versions[1]
    assert (await stored(nc))[0] == 1, "what no record names is freed"


async def test_variants_of_another_network_are_left_out(registry: Registry, tmp_path: Path) -> None:
    path = save_folder(tmp_path / "trees")
    add_variant(path / "1", of="0" * 64)
    assert (await registry.push(load_folder(path))).versions[1].variants is None


async def test_a_variant_that_was_changed_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = save_folder(tmp_path / "trees")
    add_variant(path / "1")
    (path / "1" / "int8.onnx").write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match=r"trees/1: int8\.onnx is not the file"):
        await registry.push(load_folder(path))


async def test_a_program_is_stored_and_freed_with_its_version(
    registry: Registry, nc: Client, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees")
    alone = await registry.push(load_folder(path))
    file = written(path / "1" / "model.pt2", document())

    record = await registry.push(load_folder(path))

    program = record.versions[1].program
    assert program is not None
    assert (program.sha256, program.size_bytes) == (file_sha256(file), file.stat().st_size)
    assert record.versions[1].features_digest != alone.versions[1].features_digest
    fetched = await registry.fetch(program.sha256, directory=tmp_path / "cache")
    assert fetched.read_bytes() == file.read_bytes()

    file.unlink()
    assert (await registry.push(load_folder(path))).versions == alone.versions
    with pytest.raises(Refused, match="The mesh has no artefact"):
        await registry.fetch(program.sha256, directory=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        (("aten.mean.dim", "aten.from_file.default"), "run code", Code.MODEL_UNSAFE),
        (('{"as_int": 8}', '{"as_int": 9}'), "where model.yaml says", Code.MODEL_INVALID),
        (("scores", "answer"), "the names of model.onnx's outputs, scores", Code.MODEL_INVALID),
    ],
)
async def test_a_program_that_is_unsafe_or_does_not_fit_is_not_stored(
    registry: Registry, tmp_path: Path, change: tuple[str, str], message: str, code: Code
) -> None:
    path = save_folder(tmp_path / "trees")
    text = json.dumps(document())
    assert change[0] in text
    written(path / "1" / "model.pt2", json.loads(text.replace(*change)))
    with pytest.raises(ConfigurationError, match=message) as raised:
        await registry.push(load_folder(path))
    assert raised.value.code is code
    with pytest.raises(Refused):
        await registry.get("trees")


async def test_a_program_outside_of_the_folder_is_not_stored(
    registry: Registry, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees")
    (path / "1" / "model.pt2").symlink_to(written(tmp_path / "other.pt2", document()))
    with pytest.raises(ConfigurationError, match="links out of the model's folder"):
        await registry.push(load_folder(path))


async def test_a_push_without_traffic_leaves_the_traffic_as_it_was_told(
    registry: Registry, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees", versions=(1,))
    await registry.push(load_folder(path))
    save_folder(path, versions=(1, 2))
    pushed = await registry.push(load_folder(path))
    assert (pushed.shares, pushed.traffic.before) == ({2: 1}, {1: 1})

    told = await registry.change("trees", ModelRecord.rolled_back)
    assert told.shares == {1: 1}
    save_folder(path, versions=(1, 2, 3))
    assert (await registry.push(load_folder(path))).traffic == told.traffic


async def test_what_the_folder_says_of_traffic_counts_when_it_is_new(
    registry: Registry, tmp_path: Path
) -> None:
    path = save_folder(tmp_path / "trees", versions=(1, 2), more="traffic: {1: 9, 2: 1}\n")
    await registry.push(load_folder(path))
    await registry.change("trees", lambda record: record.steered(weights={2: 1}, sticky="source"))

    again = await registry.push(load_folder(path))
    assert again.shares == {2: 1}, "a restart that pushes the same folder undoes nothing"

    save_folder(path, versions=(1, 2), more="traffic: {1: 5, 2: 5}\n")
    pushed = await registry.push(load_folder(path))
    assert (pushed.shares, pushed.traffic.before) == ({1: 5, 2: 5}, {2: 1})
    assert pushed.traffic.sticky is Sticky.SOURCE
