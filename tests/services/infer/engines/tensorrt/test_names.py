"""Whatever our code asks of TensorRT's classes, each release that is installed has.

The names are read from our own source, so nothing that is used later can be forgotten here. Classes
are inspected and never used: the lean runtime crashes without a GPU. The bindings of the full
releases (``tensorrt-cu13-bindings``) are inspected without the libraries that they bind.
"""

from __future__ import annotations

import ast
import ctypes
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any

import pytest

import services.infer.engines.tensorrt as adapter

SOURCES = sorted(Path(next(iter(adapter.__path__))).glob("*.py"))

CLASSES = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "fault": "ParserError",
    "given": "ITensor",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "plan": "IHostMemory",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
}
"""What our variables are called, in the functions that have them from TensorRT."""

RUNTIME_ONLY = {"Builder", "IBuilderConfig", "INetworkDefinition", "IOptimizationProfile"} | {
    *("ITimingCache", "OnnxParser", "ParserError", "ITensor", "IProgressMonitor", "BuilderFlag"),
    *("MemoryPoolType", "NetworkDefinitionCreationFlag", "init_libnvinfer_plugins"),
}
"""What a runtime that does not build lacks."""

ONLY_RTX = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
"""Asked for where it is there."""


def asked() -> set[tuple[str, str]]:
    """Return class and attribute of all that our code asks for; of the module, its own name."""
    found = set()
    for source in SOURCES:
        for function in ast.walk(ast.parse(source.read_text())):
            if isinstance(function, ast.FunctionDef | ast.ClassDef):
                found |= set(_asked_in(function))
    return found


def _asked_in(function: ast.AST) -> Iterator[tuple[str, str]]:
    ours = {
        argument.arg
        for argument in ast.walk(function)
        if isinstance(argument, ast.arg) and not _is_theirs(argument)
    }
    for node in ast.walk(function):
        if not isinstance(node, ast.Attribute):
            continue
        match node.value:
            case ast.Name("trt") | ast.Attribute(attr="trt"):
                yield "", node.attr
            case ast.Attribute(ast.Name("trt") | ast.Attribute(attr="trt"), attr=kind):
                yield kind, node.attr
            case ast.Name(name) if name in CLASSES and name not in ours:
                yield CLASSES[name], node.attr
            case ast.Call(ast.Attribute(ast.Name("trt"), attr=kind)):
                yield kind, node.attr


def _is_theirs(argument: ast.arg) -> bool:
    return isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any"


ASKED = asked()


def test_the_names_are_those_of_our_code() -> None:
    """Some that are certain, so that reading them cannot break unseen."""
    certain = {
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_device_memory"),
        ("IHostMemory", "nbytes"),
        ("ITensor", "shape"),
        ("ITimingCache", "serialize"),
        ("IOptimizationProfile", "set_shape"),
        ("MemoryPoolType", "WORKSPACE"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_operator"),
        ("Runtime", "deserialize_cuda_engine"),
        ("TensorIOMode", "INPUT"),
        ("", "nptype"),
    }
    assert certain <= ASKED
    assert len(ASKED) > 50


@pytest.mark.parametrize(
    "package", ["tensorrt_bindings", "tensorrt_lean_bindings", "tensorrt_rtx", "tensorrt"]
)
def test_a_release_has_all_that_is_asked_for(package: str, tmp_path: Path) -> None:
    module = installed(package, tmp_path)
    absent = RUNTIME_ONLY if package == "tensorrt_lean_bindings" else set()
    missing = {
        (kind, name)
        for kind, name in ASKED
        if kind not in absent and name not in absent | ONLY_RTX and not _has(module, kind, name)
    }
    assert not missing


def _has(module: Any, kind: str, name: str) -> bool:
    return hasattr(getattr(module, kind, None) if kind else module, name)


def installed(package: str, folder: Path) -> Any:
    """Return the module; skip if it is not here."""
    if package == "tensorrt_bindings":
        _stand_in_for_libraries(folder)
    return pytest.importorskip(package, reason="its classes are looked at", exc_type=ImportError)


def _stand_in_for_libraries(folder: Path) -> None:
    """Load libraries that have the names of TensorRT's, and answer everything with nothing."""
    try:
        release = version("tensorrt-cu13-bindings").partition(".")[0]
    except PackageNotFoundError:
        pytest.skip("tensorrt-cu13-bindings are not installed: their classes are looked at")
    if which("cc") is None:
        pytest.skip("a C compiler stands in for the libraries of tensorrt-cu13-bindings")
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        name = f"lib{library}.so.{release}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-xc", "-", "-o"]
        code = "".join(f"void *{function}(void) {{ return 0; }}\n" for function in BOUND)
        subprocess.run([*command, folder / name], input=code.encode(), check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)


BOUND = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "initLibNvInferPlugins"),
)
"""What the bindings want of the libraries."""
