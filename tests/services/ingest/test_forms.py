"""What an application answers where it raises, in the form of its protocol."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.ingest.forms import Refuse, handlers, plain_refusal, refusal
from services.ingest.presence import Gone
from visionmesh.errors import Code, Refused
from visionmesh.http import HttpServer

SECRET = "somebody else's image"
RAISED: dict[str, Exception] = {
    "unforeseen": ZeroDivisionError(SECRET),
    "full": Refused(Code.MESH_FULL, "There is no room."),
    "gone": Gone(),
}


async def raising(request: Request) -> Response:
    raise RAISED[request.path_params["what"]]


@pytest.fixture(params=[refusal, plain_refusal], ids=["own", "plain"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    refuse: Refuse = request.param
    app = Starlette(
        routes=[Route("/{what}", raising, methods=["POST"])],
        exception_handlers=handlers(refuse, hint="; look elsewhere"),
    )
    server = HttpServer(app=app, host="127.0.0.1", port=0)
    port = await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    await server.stop()


def told(answer: httpx.Response) -> str:
    """Return the code and the message, wherever the form has them."""
    error = answer.json()["error"]
    return error if isinstance(error, str) else f"{error['message']} [{error['code']}]"


async def test_what_nobody_thought_of_is_told_in_our_words_and_logged(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.post("/unforeseen")
    assert answer.status_code == 500
    assert told(answer) == "Something is wrong with the mesh; see its log. [internal]"
    (entry,) = [one for one in caplog.records if one.name == "services.ingest.forms"]
    assert entry.levelno == logging.ERROR
    assert entry.getMessage() == "POST /unforeseen"
    assert entry.exc_info is not None
    assert SECRET in str(entry.exc_info[1])


async def test_other_paths_and_methods_are_told_what_would_be_right(
    http: httpx.AsyncClient,
) -> None:
    nowhere = await http.post("/full/nowhere")
    assert nowhere.status_code == 404
    assert told(nowhere) == "There is nothing at /full/nowhere; look elsewhere. [not_found]"
    other = await http.put("/full")
    assert (other.status_code, other.headers["allow"]) == (405, "POST")
    assert told(other) == "/full takes POST, not PUT. [method_not_allowed]"


async def test_what_passes_says_when_to_come_again(http: httpx.AsyncClient) -> None:
    answer = await http.post("/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert told(answer) == "There is no room. [mesh_full]"


async def test_who_has_gone_is_no_error(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await http.post("/gone")
    assert caplog.records == []
