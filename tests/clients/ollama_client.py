"""Drive the stock client of Ollama, and print what it was answered as JSON.

Arguments: the URL of the mesh, a classifier, a model of embeddings, an image, and the folder of a
model that the mesh does not have.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama

Told = dict[str, Any]


def refused(call: Callable[[], Any]) -> list[Any]:
    """Return the status and the text with which a call is refused."""
    try:
        call()
    except ollama.ResponseError as error:
        return [error.status_code, error.error]
    return [200, ""]


def recognise(client: ollama.Client, model: str, image: Path) -> Told:
    whole = client.generate(model, prompt="What is this?", images=[str(image)])
    parts = list(client.generate(model, images=[image.read_bytes()], stream=True))
    asked = {"role": "user", "content": "And this?", "images": [str(image)]}
    spoken = list(client.chat(model, messages=[asked], stream=True))
    schema = {"type": "object", "properties": {"classes": {}}, "required": ["classes"]}
    return {
        "whole": whole.model_dump(),
        "parts": [part.response for part in parts],
        "last": parts[-1].model_dump(),
        "chat": client.chat(f"{model}:1", messages=[asked]).message.model_dump(),
        "spoken": [part.message.content for part in spoken],
        "json": client.generate(model, images=[str(image)], format="json").response,
        "schema": client.chat(model, messages=[asked], format=schema).message.content,
        "one": client.generate(
            model, images=[str(image)], format="json", options={"top_k": 1, "temperature": 0}
        ).response,
        "two": client.generate(model, images=[str(image), str(image)]).response,
    }


def embed(client: ollama.Client, model: str, image: Path) -> Told:
    text = base64.b64encode(image.read_bytes()).decode()
    return {
        "embed": client.embed(model, [text, text]).embeddings,
        "short": client.embed(model, text, dimensions=2).embeddings,
        "old": client.embeddings(model, text).embedding,
    }


def library(client: ollama.Client, model: str, folder: Path) -> Told:
    files = {
        str(file.relative_to(folder)): client.create_blob(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    repeated = client.create_blob(folder / "model.yaml")
    made = list(client.create(folder.name, files=files, stream=True))
    client.copy(model, "ollama-copy")
    client.create("ollama-child", from_=model, parameters={"top_k": 1})
    told: Told = {
        "blobs": [repeated == files["model.yaml"], sorted(files)],
        "made": [part.status for part in made],
        "list": {one.model: json.loads(one.model_dump_json()) for one in client.list().models},
        "show": json.loads(client.show(model).model_dump_json()),
        "child": client.show("ollama-child").parameters,
        "pull": [part.status for part in client.pull(model, stream=True)],
    }
    for name in (folder.name, "ollama-copy", "ollama-child"):
        client.delete(name)
    told["left"] = [one.model for one in client.list().models]
    return told


def memory(client: ollama.Client, model: str, image: Path) -> Told:
    told: Told = {"load": client.generate(model).done_reason}
    told["there"] = [one.model for one in client.ps().models]
    told["unload"] = client.generate(model, keep_alive=0).done_reason
    told["gone"] = [one.model for one in client.ps().models]
    told["back"] = client.generate(model, images=[str(image)]).response
    told["again"] = [one.model for one in client.ps().models]
    return told


def errors(client: ollama.Client, model: str, image: Path) -> Told:
    return {
        "absent": refused(lambda: client.generate("nothing", images=[str(image)])),
        "absent stream": refused(lambda: list(client.generate("nothing", prompt="x", stream=True))),
        "tag": refused(lambda: client.show(f"{model}:7b")),
        "version": refused(lambda: client.chat(f"{model}:9", messages=[])),
        "text": refused(lambda: client.generate(model, prompt="Hello?")),
        "no image": refused(lambda: client.generate(model, images=[b"no image at all"])),
        "option": refused(
            lambda: client.generate(model, images=[str(image)], options={"confidence": 7})
        ),
        "schema": refused(
            lambda: client.generate(model, images=[str(image)], format={"required": ["colour"]})
        ),
        "embed": refused(
            lambda: client.embed(model, base64.b64encode(image.read_bytes()).decode())
        ),
        "pull": refused(lambda: client.pull("nothing")),
        "push": refused(lambda: client.push(model)),
        "delete": refused(lambda: client.delete("nothing")),
        "copy": refused(lambda: client.copy("nothing", "something")),
        "create": refused(lambda: client.create("Not A Name", from_=model)),
    }


async def concurrently(url: str, model: str, image: Path) -> Told:
    async with ollama.AsyncClient(url) as client:
        whole = await asyncio.gather(
            *(client.generate(model, images=[str(image)]) for _ in range(8))
        )
        parts = [
            part.message.content
            async for part in await client.chat(
                model,
                messages=[{"role": "user", "content": "", "images": [str(image)]}],
                stream=True,
            )
        ]
    return {"whole": [one.response for one in whole], "parts": parts}


def main(url: str, model: str, embedder: str, image: Path, folder: Path) -> Told:
    client = ollama.Client(url)
    return {
        "recognise": recognise(client, model, image),
        "embed": embed(client, embedder, image),
        "library": library(client, model, folder),
        "errors": errors(client, model, image),
        "concurrently": asyncio.run(concurrently(url, model, image)),
        "memory": memory(client, model, image),
    }


if __name__ == "__main__":
    _, url, model, embedder, image, folder = sys.argv
    sys.stdout.write(json.dumps(main(url, model, embedder, Path(image), Path(folder))))
