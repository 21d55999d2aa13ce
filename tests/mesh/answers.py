"""What our own REST interface answers, and the addresses of one model's images."""

from __future__ import annotations

import base64

import httpx

from tests.mesh.conftest import CLASSIFIER
from visionmesh.contracts import Result

INFER = f"/v1/models/{CLASSIFIER}/infer"
EVENTS = f"/v1/models/{CLASSIFIER}/events"


def result_of(answer: httpx.Response) -> Result:
    assert answer.status_code == 200, answer.text
    return Result.model_validate_json(answer.content)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def in_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()
