"""What a machine lacks is made small and shared out among loads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import zipfile
from collections.abc import Mapping
from pathlib import Path

from bench.gpu.prepare import lacking, loads, there
from bench.gpu.wheels import install, repack, site_of, split

WHEEL = "colours-1.0-py3-none-any.whl"


def wheel(folder: Path) -> Path:
    files = {
        "colours/__init__.py": "RED = 'red'\n" * 500,
        "colours/examples/blue.py": "BLUE = 'blue'\n",
        "colours-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n",
        "colours-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        "colours-1.0.dist-info/RECORD": "",
    }
    return written(folder, files)


def written(folder: Path, files: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(folder / WHEEL, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return folder / WHEEL


def test_a_repacked_wheel_is_smaller_and_installs(tmp_path: Path) -> None:
    before = wheel(tmp_path)
    (tmp_path / "small").mkdir()
    after = tmp_path / "small" / WHEEL
    size = repack(before, after, sm=90, without=("colours/examples/*",))
    assert size == after.stat().st_size < before.stat().st_size
    install([tmp_path / "small"], tmp_path / "prefix")
    site = site_of(tmp_path / "prefix")
    assert "red" in (site / "colours" / "__init__.py").read_text()
    assert not (site / "colours" / "examples").exists()
    assert "colours/__init__.py,sha256=" in (site / "colours-1.0.dist-info/RECORD").read_text()


def test_the_pieces_of_a_wheel_in_several_loads_are_installed_as_one(tmp_path: Path) -> None:
    first, second, *others = split(wheel(tmp_path), 500)
    (tmp_path / "load-1").mkdir()
    (tmp_path / "load-2").mkdir()
    for piece in (first, *others):
        piece.rename(tmp_path / "load-2" / piece.name)
    second.rename(tmp_path / "load-1" / second.name)
    install([tmp_path / "load-1", tmp_path / "load-2"], tmp_path / "prefix")
    assert (site_of(tmp_path / "prefix") / "colours" / "examples" / "blue.py").exists()


def test_a_carried_server_is_found_where_it_was_installed(tmp_path: Path) -> None:
    files = {
        "colours-1.0.data/scripts/paint": "a program",
        "colours-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n",
        "colours-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        "colours-1.0.dist-info/RECORD": "",
    }
    repack(written(tmp_path, files), tmp_path / f"again-{WHEEL}")
    (tmp_path / "load").mkdir()
    (tmp_path / f"again-{WHEEL}").rename(tmp_path / "load" / WHEEL)
    install([tmp_path / "load"], tmp_path / "prefix")
    (found,) = importlib.metadata.distributions(path=[str(site_of(tmp_path / "prefix"))])
    (program,) = (file for file in found.files or () if file.name == "paint")
    assert Path(str(program.locate())).read_text() == "a program"


def test_pieces_join_to_the_whole(tmp_path: Path) -> None:
    file = tmp_path / "large"
    content = hashlib.sha256(b"large").digest() * 100
    file.write_bytes(content)
    pieces = split(file, 1000)
    assert [piece.stat().st_size for piece in pieces] == [1000, 1000, 1000, 200]
    assert b"".join(piece.read_bytes() for piece in sorted(tmp_path.glob("large.*"))) == content
    assert not file.exists()


def test_only_what_is_not_there_is_carried() -> None:
    present = there(["Prometheus_Client==0.25.0", "uvloop", "", "torch @ file:///torch.whl"])
    names = ["prometheus-client==0.26.0", "nats-py==2.16.0", "uvloop==0.23.0", "torch==2.11.0"]
    assert lacking(names, present) == ["nats-py==2.16.0"]


def test_small_packages_are_in_the_first_load_and_none_holds_too_much(tmp_path: Path) -> None:
    files = []
    for number, nbytes in enumerate((10, 60, 30, 50, 40)):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(bytes(nbytes))
    found = [[file.stat().st_size for file in load] for load in loads(files, 100)]
    assert found == [[10, 30, 40], [50], [60]]
