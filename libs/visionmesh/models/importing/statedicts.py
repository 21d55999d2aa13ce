"""Weights of PyTorch without their network."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from visionmesh.models.importing.pickles import require_harmless
from visionmesh.models.importing.wishes import misfit, unsafe

_NESTED = ("state_dict", "model_state_dict", "model", "ema")
"""Under which checkpoints keep the weights."""
_LONGEST = 300
"""Characters: a network can miss hundreds of weights."""


def fill(network: Any, file: Path) -> None:
    """Load the state dict in ``file`` into ``network``.

    Raises
    ------
    ConfigurationError
        (model_unsafe) if it holds more than tensors; (model_invalid) if it is not there, is damaged
        or does not fit.
    """
    import torch  # noqa: PLC0415 - it is large, and an extra

    if not file.is_file():
        raise misfit(f"--weights names {file}, which is not there; name a file with a state dict")
    require_harmless(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise unsafe(
            f"{file} is no plain state dict, or is damaged; save it again as "
            "torch.save(network.state_dict(), file)"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise misfit(f"{file} cannot be read, as it is damaged; copy it again") from error
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise misfit(
            f"{file} holds a {type(state).__name__} and no state dict; save it as "
            "torch.save(network.state_dict(), file)"
        )
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split()).partition(": ")[2] or str(error)
        raise misfit(
            f"the weights in {file} do not fit the network: "
            f"{textwrap.shorten(why, _LONGEST, placeholder=' …').rstrip('.')}; "
            "name what makes the network that they were trained in"
        ) from error
