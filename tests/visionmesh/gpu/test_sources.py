"""Every kernel is accepted by NVIDIA's compiler for the architecture that it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

# `cupy.cuda.nvrtc` is a name for it, and no module that could be imported.
nvrtc = pytest.importorskip(
    "cupy_backends.cuda.libs.nvrtc", reason="compiling kernels needs the extra `gpu`"
)

ROOT = Path(__file__).parents[3]
PRELUDE = ROOT / "libs/visionmesh/gpu/cuda.h"
SOURCES = sorted(path for top in ("libs", "services") for path in (ROOT / top).rglob("*.cu"))
MARK = "// defines:"
OPTIONS = (
    "--gpu-architecture=sm_90",
    "-std=c++17",
    # CuPy adds these.
    "-ftz=true",
    "--device-as-default-execution-space",
)


def defines(source: Path) -> list[tuple[str, ...]]:
    """Return the sets of macros that a source names in its lines ``// defines: A=1 B=2``."""
    found = [
        tuple(line.removeprefix(MARK).split())
        for line in source.read_text().splitlines()
        if line.startswith(MARK)
    ]
    return found or [()]


CASES = [(source, macros) for source in SOURCES for macros in defines(source)]


@pytest.mark.parametrize(
    ("source", "macros"), CASES, ids=[f"{source.stem}-{'-'.join(m)}" for source, m in CASES]
)
def test_a_kernel_compiles_for_sm_90(source: Path, macros: tuple[str, ...]) -> None:
    code = f"{PRELUDE.read_text()}\n{source.read_text()}"
    program = nvrtc.createProgram(code, source.name, (), ())
    options = (*OPTIONS, *(f"-D{macro}" for macro in macros))
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    assert nvrtc.getCUBIN(program)
