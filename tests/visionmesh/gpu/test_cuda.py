"""What is asked of CuPy exists, and shared memory is given back once; by CuPy without a GPU."""

from __future__ import annotations

import ast
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from visionmesh.gpu import GpuError, gpu_of, open_gpu
from visionmesh.gpu.gpu import DeviceInfo, GpuLostError, GpuMemoryError

cupy = pytest.importorskip("cupy", reason="CUDA needs the extra `gpu`")

from visionmesh.gpu import cuda, cuda_driver  # noqa: E402 - it needs CuPy

runtime = cupy.cuda.runtime

INFO = DeviceInfo(
    kind="cuda",
    index=0,
    uuid="GPU-00000000-0000-0000-0000-000000000001",
    name="a GPU",
    memory_bytes=1 << 30,
    capability=(9, 0),
)
HANDLE = b"\1" * 64


class Driver:
    """Counts what was allocated, opened, freed and closed."""

    def __init__(self) -> None:
        self.allocated: list[int] = []
        self.sizes: list[int] = []
        self.opened: list[int] = []
        self.modes: list[int] = []

    def cuThreadExchangeStreamCaptureMode(self, mode: Any) -> int:
        self.modes.append(mode._obj.value)
        return 0

    def malloc(self, nbytes: int) -> int:
        self.sizes.append(nbytes)
        self.allocated.append(4096 * (len(self.allocated) + 1))
        return self.allocated[-1]

    def open(self, handle: bytes) -> int:
        assert len(handle) == 64
        self.opened.append(1 << 20)
        return self.opened[-1]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    for name, call in {
        "malloc": driver.malloc,
        "free": driver.allocated.remove,
        "ipcGetMemHandle": lambda _: HANDLE,
        "ipcOpenMemHandle": driver.open,
        "ipcCloseMemHandle": driver.opened.remove,
    }.items():
        assert hasattr(runtime, name)
        monkeypatch.setattr(runtime, name, call)
    monkeypatch.setattr(cupy.cuda, "Device", lambda _: nullcontext())
    monkeypatch.setattr(cuda_driver, "devices", lambda: (INFO,))
    monkeypatch.setattr(cuda_driver, "_library", lambda: driver)
    cuda.gpu_at.cache_clear()
    return driver


def names_of(source: str) -> set[str]:
    """Return what is taken of the modules ``cupy`` and ``runtime``: ``cupy.cuda.Event``."""
    return {
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node).partition(".")[0] in {"cupy", "runtime"}
        and ast.unparse(node).replace(".", "").replace("_", "").isalnum()
    }


def test_every_name_that_is_asked_of_cupy_exists() -> None:
    assert cuda.__file__ is not None
    sources = Path(cuda.__file__).parent.glob("cuda*.py")
    names = set().union(*(names_of(source.read_text()) for source in sources))
    assert "cupy.cuda.alloc_pinned_memory" in names
    modules: dict[str, ModuleType] = {"cupy": cupy, "runtime": runtime}
    for name in sorted(names):
        module, *rest = name.split(".")
        reduce(getattr, rest, modules[module])


def test_a_device_is_one_object_by_any_of_its_names(driver: Driver) -> None:
    gpu = open_gpu("cuda")
    assert gpu is open_gpu("cuda:0") is open_gpu(f"cuda:{INFO.uuid}") is gpu_of(INFO.uuid)


def test_what_is_shared_is_freed_with_its_last_array_and_once(driver: Driver) -> None:
    shared = open_gpu("cuda").share(100)
    part = shared.array[10:20].view(cupy.float16)
    assert (shared.handle, part.shape) == (HANDLE, (5,))
    del shared
    assert driver.allocated
    del part
    assert not driver.allocated
    shared = open_gpu("cuda").share(100)
    shared.close()
    shared.close()
    assert not driver.allocated


def test_what_is_shared_is_alone_in_its_blocks_of_2_mib(driver: Driver) -> None:
    kept = [open_gpu("cuda").share(nbytes) for nbytes in (100, 2 << 20, (2 << 20) + 1)]
    assert [one.array.nbytes for one in kept] == [100, 2 << 20, (2 << 20) + 1]
    assert driver.sizes == [2 << 20, 2 << 20, 4 << 20]


def test_memory_of_others_is_mapped_and_ones_own_is_not(driver: Driver) -> None:
    gpu = open_gpu("cuda")
    others = gpu.open_shared(HANDLE, 100)
    assert driver.opened
    others.close()
    assert not driver.opened
    own = gpu.share(100)
    again = gpu.open_shared(HANDLE, 100)
    assert not driver.opened
    assert again.array.data.ptr == own.array.data.ptr
    again.close()
    del again
    assert driver.allocated


def test_memory_without_a_handle_is_freed(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> bytes:
        raise runtime.CUDARuntimeError(801)

    monkeypatch.setattr(runtime, "ipcGetMemHandle", refuse)
    with pytest.raises(GpuError, match="NotSupported"):
        open_gpu("cuda").share(100)
    assert not driver.allocated


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (2, GpuMemoryError),
        # An invalid graphics context.
        (219, GpuError),
        # Contained, an illegal address, a failed launch, ended by the MPS server.
        *((status, GpuLostError) for status in (226, 700, 719, 810)),
    ],
)
def test_errors_are_classed_by_what_can_be_done(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[GpuError]
) -> None:
    def fail(_: int) -> int:
        raise runtime.CUDARuntimeError(status)

    monkeypatch.setattr(runtime, "malloc", fail)
    with pytest.raises(GpuError) as raised:
        open_gpu("cuda").share(100)
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (cupy.cuda.memory.OutOfMemoryError(1, 2), GpuMemoryError),
        (runtime.CUDARuntimeError(700), GpuLostError),
        (runtime.CUDARuntimeError(1), GpuError),
        (ValueError("of another kind"), ValueError),
    ],
)
def test_what_arrays_raise_within_a_stream_is_told_as_what_the_device_could_not_do(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    monkeypatch.setattr(cupy.cuda, "Stream", lambda non_blocking: nullcontext())
    with pytest.raises(kind) as raised, open_gpu("cuda").stream():
        raise error
    assert type(raised.value) is kind


def test_who_uses_a_stream_may_allocate_while_another_thread_captures(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda, "Stream", lambda non_blocking: nullcontext())
    with open_gpu("cuda").stream():
        assert driver.modes == [runtime.streamCaptureModeThreadLocal]


def test_a_kernel_is_compiled_and_looked_up_once(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Module:
        def __init__(self, *, code: str, options: tuple[str, ...]) -> None:
            asked.append(options[-1])

        def compile(self) -> None:
            """Do nothing."""

        def get_function(self, name: str) -> object:
            asked.append(name)
            return object()

    monkeypatch.setattr(cupy, "RawModule", Module)
    source = tmp_path / "some.cu"
    source.write_text("KERNEL first() {}\nKERNEL second() {}\n")
    gpu = open_gpu("cuda")
    first = gpu.kernel(source, "first", SIDE=3)
    assert gpu.kernel(source, "first", SIDE=3) is first
    gpu.kernel(source, "second", SIDE=3)
    assert asked == ["-DSIDE=3", "first", "second"]


def test_who_waits_for_a_stream_sleeps(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy waits for a stream by looking again and again, and for such an event it does not."""
    waited: list[bool] = []

    class Event:
        def __init__(self, *, block: bool, disable_timing: bool) -> None:
            self.block = block

        def record(self, stream: object) -> None:
            """Do nothing."""

        def synchronize(self) -> None:
            waited.append(self.block)

    monkeypatch.setattr(cupy.cuda, "Stream", lambda non_blocking: nullcontext())
    monkeypatch.setattr(cupy.cuda, "Event", Event)
    open_gpu("cuda").stream().synchronize()
    assert waited == [True]
