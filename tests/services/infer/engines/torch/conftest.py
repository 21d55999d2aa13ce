"""A program for the tests of this folder, none of which changes it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of ``vits.Vit()``."""
    from tests import vits  # noqa: PLC0415 - it wants PyTorch, and without it tests are skipped

    return vits.save_program(vits.Vit(), tmp_path_factory.mktemp("vit") / "vit.pt2")
