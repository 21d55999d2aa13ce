from __future__ import annotations

from pathlib import Path

import pytest

from visionmesh.cpu import computes_bf16, cpu_features, multiplies_bytes

SERVER = """\
processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8
"""
LAPTOP = """\
processor\t: 0
flags\t\t: avx2 fma avx_vnni avx512f
vmx flags\t: avx512_bf16

processor\t: 1
flags\t\t: avx2 fma avx_vnni
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd asimdhp asimddp sve i8mm bf16
"""


def file_with(text: str, folder: Path) -> Path:
    file = folder / "cpuinfo"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "features", "bytes_and_bf16"),
    [
        (
            SERVER,
            ("amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "fma"),
            (True, True),
        ),
        (LAPTOP, ("avx2", "avx_vnni", "fma"), (True, False)),
        (ARM, ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve"), (True, True)),
        ("processor\t: 0\n", (), (False, False)),
    ],
)
def test_features_that_all_processors_have_are_told(
    tmp_path: Path, text: str, features: tuple[str, ...], bytes_and_bf16: tuple[bool, bool]
) -> None:
    found = cpu_features(file_with(text, tmp_path))
    assert found == features
    assert (multiplies_bytes(found), computes_bf16(found)) == bytes_and_bf16


def test_a_system_that_tells_nothing_has_no_known_features(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "nothing") == ()


def test_this_machine_says_the_same_twice() -> None:
    assert cpu_features() == cpu_features()
    assert list(cpu_features()) == sorted(set(cpu_features()))
