"""The emulated GPU runs kernels as a GPU would, and shares its memory as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import GpuError, gpu_of, open_gpu
from visionmesh.gpu.gpu import GpuMemoryError

SOURCE = """
KERNEL scale(const float *from, uint16_t *to, int *seen, int count, float factor) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    to[at] = half_of(from[at] * factor + OFFSET);
    atomicAdd(seen, 1);
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scale.cu"
    path.write_text(SOURCE)
    return path


def test_a_kernel_runs_for_every_thread_of_its_grid(source: Path) -> None:
    gpu = open_gpu("emulated")
    values = np.linspace(-3, 70000, 1000, dtype=np.float32)
    halves, seen = np.zeros(1000, np.float16), np.zeros(1, np.int32)
    kernel = gpu.kernel(source, "scale", OFFSET="0.25f")
    with gpu.stream() as stream:
        kernel((8,), (128,), (values, halves, seen, np.int32(1000), np.float32(0.5)))
        stream.synchronize()
    with np.errstate(over="ignore"):
        expected = (values * np.float32(0.5) + np.float32(0.25)).astype(np.float16)
    np.testing.assert_array_equal(halves, expected)
    assert seen[0] == 1000


def test_captured_work_runs_as_often_as_it_is_launched_and_not_before(source: Path) -> None:
    gpu = open_gpu("emulated")
    values, halves = np.ones(4, np.float32), np.zeros(4, np.float16)
    seen = np.zeros(1, np.int32)
    kernel = gpu.kernel(source, "scale", OFFSET="0.0f")
    with gpu.stream() as stream:
        launch = stream.capture(
            lambda: kernel((1,), (4,), (values, halves, seen, np.int32(4), np.float32(2)))
        )
        assert seen[0] == 0
        launch()
        values[:] = 3
        launch()
        stream.synchronize()
    assert seen[0] == 8
    np.testing.assert_array_equal(halves, np.full(4, 6, np.float16))


POINTERS = """
KERNEL square(const uint64_t *rows, double *sums, int count) {
    const double *row = (const double *)rows[blockIdx.x];
    double sum = 0;
    for (int i = 0; i < count; i++) sum += __dmul_rn(row[i], row[i]);
    sums[blockIdx.x] = sum;
}
"""


def test_a_kernel_reads_arrays_that_lie_apart(tmp_path: Path) -> None:
    path = tmp_path / "square.cu"
    path.write_text(POINTERS)
    gpu = open_gpu("emulated")
    rows = [gpu.xp.full(5, value, np.float64) for value in (1, 2, 3)]
    table, sums = np.array([gpu.address(row) for row in rows], np.uint64), np.empty(3)
    gpu.kernel(path, "square")((3,), (1,), (table, sums, np.int32(5)))
    assert sums.tolist() == [5, 20, 45]


def test_products_are_rounded_before_they_are_added_to(tmp_path: Path) -> None:
    path = tmp_path / "rounded.cu"
    path.write_text(
        "KERNEL rounded(const double *x, double *y) {\n    *y = __dmul_rn(x[0], x[0]) - x[1];\n}\n"
    )
    value = np.array([1 + 2.0**-30, (1 + 2.0**-30) ** 2])
    left = np.full(1, np.nan)
    open_gpu("emulated").kernel(path, "rounded")((1,), (1,), (value, left))
    assert left[0] == 0  # fused, the lost 2^-60 would be left


def test_a_kernel_that_does_not_compile_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.cu"
    path.write_text("KERNEL bad(int count) {\n    counts = 1;\n}\n")
    with pytest.raises(GpuError, match=r"bad\.cu:2"):
        open_gpu("emulated").kernel(path, "bad")


def test_shared_memory_is_seen_by_another_process_and_gone_with_its_owner() -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from visionmesh.gpu import open_gpu\n"
            "shared = open_gpu('emulated').share(4096)\n"
            "shared.array[:] = 7\n"
            "print(shared.handle.hex(), flush=True)\n"
            "input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        handle = bytes.fromhex(owner.stdout.readline())
        gpu = open_gpu("emulated")
        opened = gpu.open_shared(handle, 4096)
        assert (opened.array == 7).all()
        owner.kill()
        owner.wait()
        with pytest.raises(GpuError, match="gone"):
            gpu.open_shared(handle, 4096)
        opened.close()


def test_what_is_shared_is_told_from_the_memory_of_the_host() -> None:
    gpu = open_gpu("emulated")
    shared = gpu.share(4096)
    opened = gpu.open_shared(shared.handle, 4096)
    assert gpu.holds(shared.array)
    assert gpu.holds(opened.array[100:200].reshape(10, 10))
    assert not gpu.holds(np.zeros(4096, np.uint8))
    opened.close()
    assert not gpu.holds(opened.array)
    assert gpu.holds(shared.array)
    shared.close()


def test_more_memory_than_there_is_is_refused() -> None:
    gpu = open_gpu("emulated")
    with pytest.raises(GpuMemoryError):
        gpu.share(gpu.free_bytes + 1)


def test_shared_memory_is_free_again_with_the_last_array_in_it() -> None:
    gpu = open_gpu("emulated")
    before = gpu.free_bytes
    part = gpu.share(4096).array[10:20]
    assert gpu.free_bytes == before - 4096
    part[:] = 1
    del part
    assert gpu.free_bytes == before


def test_one_device_is_one_object_by_any_of_its_names() -> None:
    gpu = open_gpu("emulated")
    assert open_gpu("emulated:0") is gpu
    assert gpu_of(gpu.info.uuid) is gpu
    assert open_gpu("emulated:1") is not gpu


@pytest.mark.parametrize("name", ["tpu", "cuda:77", "emulated:x"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_gpu(name)
    assert caught.value.code is Code.DEVICE_MISSING
