"""NVML is asked for what it has, and what a GPU does not tell is no failure."""

from __future__ import annotations

import ast
import inspect
import sys
from contextlib import closing

import pytest

from tests.driver import LOST, RESET, Driver
from visionmesh.gpu import nvml
from visionmesh.gpu.listing import listing
from visionmesh.gpu.nvml import NoNvml, Nvml, read_once


def test_gpus_are_read_with_their_slices(driver: Driver) -> None:
    whole, cut = read_once()
    assert not driver.open
    assert (whole.uuid, whole.name) == ("uuid of gpu0", "NVIDIA H200")
    assert (whole.memory_total, whole.memory_used, whole.memory_free) == (100, 30, 70)
    assert (whole.temperature, whole.rows_pending, whole.rows_failed) == (50, 1, 0)
    assert (whole.recovery, whole.processes) == (0, ((12, None),))
    assert whole.slices == ()
    assert [(one.uuid, one.name) for one in cut.slices] == [
        ("uuid of gpu1 slice 2", "NVIDIA H200 MIG 3g.71gb")
    ]


def test_what_is_not_supported_is_not_told(driver: Driver) -> None:
    del driver.answers["nvmlDeviceGetRemappedRows"], driver.answers["nvmlDeviceGetFieldValues"]
    gpu, _ = read_once()
    assert (gpu.utilization, gpu.rows_pending, gpu.rows_failed, gpu.recovery) == (None,) * 4
    assert listing(gpu).healthy


@pytest.mark.parametrize("code", [LOST, RESET])
def test_a_gpu_that_is_lost_while_it_is_watched_keeps_its_name(driver: Driver, code: int) -> None:
    with closing(Nvml()) as opened:
        assert [gpu.lost for gpu in opened.read()] == [None, None]
        driver.lost["gpu1"] = code
        well, lost = opened.read()
    assert well.lost is None
    assert (lost.uuid, lost.index) == ("uuid of gpu1", 1)
    assert lost.lost is not None
    assert not listing(lost).healthy


def test_a_gpu_that_was_lost_before_is_told_by_its_number(driver: Driver) -> None:
    driver.lost["0"] = LOST
    lost, well = read_once()
    assert (lost.index, lost.lost, well.lost) == (0, "GPU is lost", None)


def test_reports_of_a_gpu_are_kept(driver: Driver) -> None:
    with closing(Nvml()) as opened:
        driver.reports = [("gpu0", 79), ("gpu0", 31), ("gpu0", 79)]
        opened.read()
        first, second = opened.read()
    assert (sorted(first.xids), second.xids) == ([31, 79], ())


def test_without_a_driver_the_reason_is_told(driver: Driver) -> None:
    driver.absent = True
    with pytest.raises(NoNvml, match=r"no NVIDIA driver answers.*Not Found"):
        Nvml()


def test_without_the_package_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoNvml, match="nvidia-ml-py is not installed"):
        Nvml()


def test_the_real_module_has_all_that_is_asked_of_it() -> None:
    real = pytest.importorskip("pynvml", reason="reading NVML needs the extra `gpu`")
    asked = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(nvml)))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"nvml", "self._nvml"}
    }
    assert len(asked) > 20
    assert sorted(name for name in asked if not hasattr(real, name)) == []


def test_a_machine_without_gpus_says_so_by_the_real_module() -> None:
    pytest.importorskip("pynvml", reason="reading NVML needs the extra `gpu`")
    try:
        gpus = read_once()
    except NoNvml as error:
        assert "no NVIDIA driver answers" in str(error)  # noqa: PT017 - either may be the case
    else:
        assert all(gpu.name for gpu in gpus)
