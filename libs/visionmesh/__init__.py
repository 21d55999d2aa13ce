"""Image recognition at scale: image events in, results out, over NATS JetStream.

What producers and consumers use is named here; it is imported when it is first asked for, since
the services and the command line share this package and need little of it at the start.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visionmesh.blocking import BlockingMesh
    from visionmesh.client import Mesh
    from visionmesh.contracts import Params, Priority, Result, Status
    from visionmesh.errors import (
        Code,
        ConfigurationError,
        Expired,
        Fatal,
        Miss,
        Refused,
        Reject,
        Retry,
        VisionmeshError,
    )

__all__ = [
    "BlockingMesh",
    "Code",
    "ConfigurationError",
    "Expired",
    "Fatal",
    "Mesh",
    "Miss",
    "Params",
    "Priority",
    "Refused",
    "Reject",
    "Result",
    "Retry",
    "Status",
    "VisionmeshError",
]

_HOMES = {
    "visionmesh.blocking": {"BlockingMesh"},
    "visionmesh.client": {"Mesh"},
    "visionmesh.contracts": {"Params", "Priority", "Result", "Status"},
}
"""Where the names are from that are no errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "visionmesh.errors")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
