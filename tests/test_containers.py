from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers import VARIABLE

USERS = {
    "nats_url": "tests/visionmesh/models/test_artifacts.py",
    "valkey_url": "tests/visionmesh/cache/test_cache.py",
}


@pytest.mark.parametrize("fixture", USERS)
def test_containers_that_cannot_be_had_fail_the_tests_that_need_them(fixture: str) -> None:
    environment = {**os.environ, VARIABLE: "1", "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", USERS[fixture]]
    ran = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"{VARIABLE}=1, but no Docker engine answers" in ran.stdout
    assert "1 error" in ran.stdout
