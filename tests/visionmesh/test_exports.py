"""What `import visionmesh` offers, and what it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import visionmesh
from visionmesh import errors

SCRIPT = """
import sys
from importlib.metadata import packages_distributions

ALLOWED = {"nats-py", "numpy", "pydantic", "pydantic-core", "annotated-types", "typing-extensions",
           "typing-inspection", "visionmesh"}

class Nobody:
    "Lets nothing be imported but the client's own dependencies and what pydantic needs."

    blocked = {
        package
        for package, owners in packages_distributions().items()
        if not ALLOWED & {owner.lower().replace("_", "-") for owner in owners}
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"{name} is not a dependency of the client")

sys.meta_path.insert(0, Nobody())
import visionmesh
for name in visionmesh.__all__:
    getattr(visionmesh, name)
print(len(Nobody.blocked), "redis" in Nobody.blocked)
"""


def test_exports_are_sorted_and_each_is_there() -> None:
    assert visionmesh.__all__ == sorted(visionmesh.__all__)
    assert dir(visionmesh) == visionmesh.__all__
    for name in visionmesh.__all__:
        assert getattr(visionmesh, name).__name__ == name


def test_exports_every_error() -> None:
    defined = {
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if value.__module__ == errors.__name__
    }
    assert defined <= set(visionmesh.__all__)


def test_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Mash'"):
        visionmesh.Mash  # noqa: B018 - the look-up is what is tested


def test_needs_nothing_but_the_dependencies_of_the_client() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    blocked, blocks_redis = ran.stdout.split()
    assert int(blocked) > 10
    assert blocks_redis == "True"


def test_importing_the_package_alone_loads_no_client() -> None:
    script = "import sys, visionmesh; print('nats' in sys.modules, 'pydantic' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
