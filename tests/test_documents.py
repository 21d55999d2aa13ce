"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

from visionmesh.errors import Code
from visionmesh.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent


def test_the_example_settings_are_the_defaults() -> None:
    read = load_settings(ROOT / "docs" / "mesh.yaml")
    assert read == Settings()
    for name in ("events", "tracing", "ingest", "preprocess", "infer", "postprocess"):
        section = getattr(read, name)
        absent = set(type(section).model_fields) - section.model_fields_set
        assert absent <= {"otlp_endpoint", "tls"}, f"{name} lacks {absent}"


def test_every_code_is_explained_once() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    explained = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert sorted(explained) == sorted(Code)
