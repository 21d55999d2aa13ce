"""An exported program as PyTorch writes it, made without PyTorch: for readers, not for running."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

Document = dict[str, Any]
SPEC = json.dumps(
    [
        1,
        {
            "type": "builtins.dict",
            "context": '["scores"]',
            "children_spec": [{"type": None, "context": None, "children_spec": []}],
        },
    ]
)


def document() -> Document:
    """Return what it says of itself: ``(N, 3, 8, 6) float32`` to ``scores``."""
    size = {"as_expr": {"expr_str": "Mul(Integer(2), Symbol('s0', positive=True, integer=True))"}}
    meta = {"dtype": 7, "sizes": [size, *({"as_int": side} for side in (3, 8, 6))]}
    given = {"as_tensor": {"name": "x"}}
    return {
        "graph_module": {
            "graph": {
                "inputs": [given],
                "nodes": [
                    {
                        "target": "torch.ops.aten.mean.dim",
                        "inputs": [{"name": "self", "arg": given}],
                        "metadata": {"stack_trace": 'File "net.py", line 4, in forward'},
                        "name": "mean",
                    }
                ],
                "tensor_values": {"x": meta},
                "sym_int_values": {},
                "custom_obj_values": {},
            },
            "signature": {"input_specs": [{"user_input": {"arg": given}}]},
            "module_call_graph": [{"fqn": "", "signature": {"in_spec": SPEC, "out_spec": SPEC}}],
        },
        "guards_code": ["L['x'].size()[0] % 2 == 0 and (L['x'].size()[0] // 2) >= 1"],
        "range_constraints": {"s0": {"min_val": 1, "max_val": 256}},
    }


def written(file: Path, program: Document, **members: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/models/model.json", json.dumps(program))
        archive.writestr("net/archive_format", b"pt2")
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return file
