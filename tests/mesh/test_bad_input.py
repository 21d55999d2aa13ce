"""Whatever is sent, the answer has a stable code, and the next image works."""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from collections.abc import AsyncIterator

import httpx
import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import NoStreamResponseError

from tests.mesh.conftest import CLASSIFIER, picture
from visionmesh.client import Mesh
from visionmesh.contracts import Result, Status
from visionmesh.errors import Code, Refused, Reject
from visionmesh.local import LocalMesh


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width: int, height: int) -> bytes:
    """Return a PNG that says it is so large, and has hardly any data."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


BAD_IMAGES = [
    pytest.param(b"This is a text named .jpg", Code.NOT_AN_IMAGE, id="text"),
    pytest.param(picture(300, 200)[:2000], Code.BROKEN_IMAGE, id="truncated JPEG"),
    pytest.param(png(50_000, 50_000), Code.IMAGE_TOO_LARGE, id="50,000 x 50,000"),
    pytest.param(png(0, 100), Code.IMAGE_EMPTY, id="0 x 100"),
    pytest.param(b"GIF89a" + bytes(100), Code.UNSUPPORTED_FORMAT, id="GIF"),
    pytest.param(bytes(9 << 20), Code.PAYLOAD_TOO_LARGE, id="9 MiB where 8 are taken"),
]


FILE_PART = b"""--b\r
Content-Disposition: form-data; name="a"; filename="a"\r
\r
\r
"""


@pytest.fixture
async def plain(local_mesh: LocalMesh) -> AsyncIterator[Client]:
    client = await nats.connect(local_mesh.nats_url)
    yield client
    await client.close()


async def publish(client: Client, body: bytes, headers: dict[str, str], source: str) -> Result:
    """Publish as a stranger would and return the one result."""
    results = await client.subscribe(f"vm.results.{CLASSIFIER}.{source}.*")
    await client.jetstream().publish(f"vm.events.{CLASSIFIER}.{source}", body, headers=headers)
    message = await results.next_msg(timeout=10)
    await results.unsubscribe()
    return Result.model_validate_json(message.data)


async def still_works(mesh: Mesh) -> None:
    assert (await mesh.infer(CLASSIFIER, picture())).status is Status.OK


@pytest.mark.parametrize(("body", "code"), BAD_IMAGES)
async def test_a_bad_image_ends_in_an_error_result(mesh: Mesh, body: bytes, code: Code) -> None:
    result = await mesh.infer(CLASSIFIER, body)
    assert result.status is Status.ERROR
    assert result.error is not None
    assert result.error.code is code
    assert len(result.error.message) > 20
    await still_works(mesh)


@pytest.mark.parametrize(("body", "code"), BAD_IMAGES)
async def test_a_bad_image_by_http_is_refused(
    http: httpx.AsyncClient, body: bytes, code: Code
) -> None:
    answer = await http.post(f"/v1/models/{CLASSIFIER}/infer", content=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"ce-id": "x" * 300}, Code.INVALID_ID),
        ({"Vm-Deadline": "soon"}, Code.INVALID_DEADLINE),
        ({"Vm-Deadline": "2020-01-01T00:00:00Z"}, Code.DEADLINE_PASSED),
        ({"Vm-Params": "{"}, Code.INVALID_PARAMS),
        ({"Vm-Params": '{"confidence": 7}'}, Code.INVALID_PARAMS),
    ],
)
async def test_bad_headers_end_in_a_result_with_their_code(
    plain: Client, mesh: Mesh, headers: dict[str, str], code: Code
) -> None:
    known = {"ce-id": f"refused {code}", **headers}
    result = await publish(plain, picture(), known, "headers")
    assert result.error is not None
    assert result.error.code is code
    assert (result.id == known["ce-id"]) is (code is not Code.INVALID_ID)
    await still_works(mesh)


async def test_an_empty_body_ends_in_a_result(plain: Client) -> None:
    result = await publish(plain, b"", {"ce-id": "empty-1"}, "empty")
    assert result.id == "empty-1"
    assert result.error is not None
    assert result.error.code is Code.EMPTY_BODY


async def test_an_event_that_fills_a_message_ends_in_a_result(plain: Client, mesh: Mesh) -> None:
    # What DEAD keeps besides no longer fits then, and the server would end ingest's connection.
    result = await publish(plain, bytes(plain.max_payload - 100), {}, "brim")
    assert result.error is not None
    assert result.error.code is Code.PAYLOAD_TOO_LARGE
    await still_works(mesh)


async def test_an_id_that_is_no_token_is_answered_under_its_hash(plain: Client) -> None:
    result = await publish(plain, picture(), {"ce-id": "board 7, side B.2 *>"}, "ids")
    assert (result.id, result.status) == ("board 7, side B.2 *>", Status.OK)


@pytest.mark.parametrize("model", ["a.b", "a b", ">", "*", "m" * 300, "Upper", ""])
async def test_a_name_that_cannot_be_is_refused(
    mesh: Mesh, http: httpx.AsyncClient, model: str
) -> None:
    with pytest.raises(Refused) as caught:
        await mesh.publish(model, picture())
    assert caught.value.code is Code.INVALID_NAME
    if model:
        answer = await http.post(f"/v1/models/{model}/infer", content=picture())
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, Code.INVALID_NAME)


async def test_an_unknown_model_is_refused(mesh: Mesh, http: httpx.AsyncClient) -> None:
    with pytest.raises(Refused) as caught:
        await mesh.publish("nobody", picture())
    assert caught.value.code is Code.UNKNOWN_MODEL
    answer = await http.post("/v1/models/nobody/infer", content=picture())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, Code.UNKNOWN_MODEL)


async def test_a_plain_client_is_refused_an_unknown_model_too(plain: Client) -> None:
    with pytest.raises(NoStreamResponseError):
        await plain.jetstream().publish("vm.events.nobody.x", picture())


async def test_a_bad_id_is_refused_by_the_client(mesh: Mesh) -> None:
    with pytest.raises(Reject) as caught:
        await mesh.publish(CLASSIFIER, picture(), id="")
    assert caught.value.code is Code.INVALID_ID


@pytest.mark.parametrize("query", ["confidence=2", "confidence=x", "top_k=0", "confidense=0.1"])
async def test_bad_parameters_by_http_are_refused(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.post(f"/v1/models/{CLASSIFIER}/infer?{query}", content=picture())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, Code.INVALID_PARAMS)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=b", b"no part at all"),
        ("Multipart/Form-Data; boundary=b", 17 * FILE_PART),
    ],
    ids=["without a boundary", "garbage", "17 files"],
)
async def test_a_form_that_cannot_be_read_is_refused(
    http: httpx.AsyncClient, kind: str, body: bytes
) -> None:
    answer = await http.post(
        f"/v1/models/{CLASSIFIER}/infer", content=body, headers={"Content-Type": kind}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, Code.INVALID_EVENT)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
async def test_another_method_than_post_is_refused(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, f"/v1/models/{CLASSIFIER}/infer")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == Code.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("field", [{"confidence": "2"}, {"params": "{}"}])
async def test_a_field_of_a_form_that_is_no_parameter_is_refused(
    http: httpx.AsyncClient, field: dict[str, str]
) -> None:
    answer = await http.post(
        f"/v1/models/{CLASSIFIER}/infer", data=field, files={"image": ("a.jpg", picture())}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, Code.INVALID_PARAMS)
    assert next(iter(field)) in answer.json()["error"]["message"]


async def test_a_form_without_a_file_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1/models/{CLASSIFIER}/infer", files={"image": (None, "text")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, Code.EMPTY_BODY)


async def test_a_source_that_is_no_token_is_answered_as_such(plain: Client) -> None:
    result = await publish(plain, picture(), {}, "BAD")
    assert result.error is not None
    assert result.error.code is Code.INVALID_NAME


async def test_requests_are_counted_by_status_and_reason(http: httpx.AsyncClient) -> None:
    async def counted(model: str, status: str, reason: str) -> float:
        text = (await http.get("/metrics")).text
        labels = f'model="{model}",reason="{reason}",stage="ingest",status="{status}"'
        found = re.search(rf"visionmesh_requests_total\{{{labels}\}} ([0-9.]+)", text)
        return float(found[1]) if found else 0.0

    cases = [
        (CLASSIFIER, picture(), (CLASSIFIER, "ok", "")),
        (CLASSIFIER, b"", (CLASSIFIER, "error", Code.EMPTY_BODY)),
        ("nobody", picture(), ("", "error", Code.UNKNOWN_MODEL)),
    ]
    for model, body, labels in cases:
        before = await counted(*labels)
        await http.post(f"/v1/models/{model}/infer", content=body)
        assert await counted(*labels) == before + 1


async def test_what_was_refused_lies_in_dead_with_its_image(mesh: Mesh, plain: Client) -> None:
    body = b"no image at all"
    dead = await plain.subscribe(f"vm.dead.*.{CLASSIFIER}")
    await publish(plain, body, {"ce-id": "dead-1", "x-camera": "7"}, "buried")
    message = await dead.next_msg(timeout=5)
    assert message.data == body
    assert message.headers is not None
    assert message.headers["Vm-Id"] == "dead-1"
    assert message.headers["Vm-Error-Code"] == Code.NOT_AN_IMAGE
    assert message.headers["x-camera"] == "7"
    await dead.unsubscribe()


async def test_bad_and_good_images_at_once_do_not_disturb_each_other(mesh: Mesh) -> None:
    good = [mesh.infer(CLASSIFIER, picture()) for _ in range(20)]
    bad = [mesh.infer(CLASSIFIER, b"text %d" % number) for number in range(20)]
    results = await asyncio.gather(*good, *bad)
    assert [one.status for one in results] == [Status.OK] * 20 + [Status.ERROR] * 20
