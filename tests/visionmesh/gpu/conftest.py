"""A driver for those who ask NVML."""

from __future__ import annotations

import sys

import pytest

from tests.driver import Driver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver
