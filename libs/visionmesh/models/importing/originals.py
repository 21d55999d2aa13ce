"""A network of PyTorch beside the ONNX that was made of it: kept as an exported program."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from visionmesh.errors import ConfigurationError
from visionmesh.models.importing.probe import BATCHES, Outputs, Runner, agree, first_line, images

_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, LookupError)
"""What PyTorch raises where it cannot export or run a network."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's advice, which is for who writes networks, from who imports one."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True, kw_only=True)
class Original:
    """What was converted."""

    network: Any
    """An ``nn.Module``, or an exported program."""
    names: tuple[str, ...]
    """The outputs of the ONNX that was made of it, in the order of its tensors."""

    def save(self, file: Path, *, like: onnx.ModelProto, batch: int | None) -> None:
        """Write it as an exported program that gives by name what ``like`` gives.

        Raises
        ------
        ConfigurationError
            (model_invalid) if ``like`` fails on made-up images.
        RuntimeError, ValueError, TypeError, AssertionError, LookupError
            If PyTorch cannot export it, or it says something else than ``like``.
        """
        import torch  # noqa: PLC0415 - it is large, and an extra

        entry = like.graph.input[0].type.tensor_type
        shape = tuple(dim.dim_value for dim in entry.shape.dim)[1:]
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(entry.elem_type))
        network = self._named(tuple(output.name for output in like.graph.output))
        several = torch.from_numpy(images(batch or 2, shape, dtype))
        shapes = None if batch else ({0: torch.export.Dim("N")},)
        program = torch.export.export(network, (several,), dynamic_shapes=shapes)
        runner = Runner(like)
        for size in (batch,) if batch else BATCHES:
            given = images(size, shape, dtype)
            if not agree(_answers(program.module(), given), runner(given)):
                raise ValueError("it says something else than the ONNX that was made of it")
        torch.export.save(program, str(file))

    def _named(self, wanted: tuple[str, ...]) -> Any:
        """Return a module that gives the outputs ``wanted`` by name."""
        import torch  # noqa: PLC0415 - as above
        from torch.utils import _pytree  # noqa: PLC0415 - what the exporter flattens answers with

        inner = self.network
        if isinstance(inner, torch.export.ExportedProgram):
            inner = inner.module()
        names = self.names

        class Named(torch.nn.Module):  # type: ignore[misc]  # it has no types
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, images: Any) -> Any:
                leaves = _pytree.tree_leaves(self.inner(images))
                tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
                found = dict(zip(names, tensors, strict=False))
                return {name: found[name] for name in wanted}

        named = Named()
        named.training = False  # a program's module has no eval()
        return named


def _answers(network: Any, given: NDArray[Any]) -> Outputs:
    import torch  # noqa: PLC0415 - as above

    with torch.no_grad():
        return {name: value.numpy() for name, value in network(torch.from_numpy(given)).items()}


def keep(original: Original, file: Path, *, like: onnx.ModelProto, batch: int | None) -> str:
    """Write ``original`` to ``file`` as `Original.save` does; return why not, if that cannot be.

    A program that was exported for one image stays so, whatever ``batch`` the ONNX takes.
    """
    why_not = ""
    with quiet():
        for size in dict.fromkeys((batch, 1)):
            try:
                original.save(file, like=like, batch=size)
            except (*_FAILURES, ConfigurationError) as error:
                why_not = why_not or first_line(error)
            else:
                return ""
    return f"PyTorch itself cannot run it as an exported program: {why_not}"
