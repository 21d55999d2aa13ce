"""Drive a stock asyncio client of the Open Inference Protocol; print its answers as JSON.

Arguments as of ``triton_blocking.py``.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


class Driver:
    """One client and what it sends."""

    def __init__(self, wire: str, client: Any, model: str, folder: Path) -> None:
        self.triton = importlib.import_module(f"tritonclient.{wire}")
        self.client = client
        self.model = model
        self.image = np.array([(folder / "image").read_bytes()], dtype=object)
        self.own = np.load(folder / "own.npy")

    def given(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        tensor = self.triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor

    async def told(self) -> dict[str, Any]:
        client = self.client
        many = await asyncio.gather(
            *(client.infer(self.model, [self.given("image", self.image)]) for _ in range(8))
        )
        own = await client.infer(self.model, [self.given("image", self.own)])
        try:
            await client.infer("nothing", [self.given("image", self.image)])
        except InferenceServerException as error:
            refusal = error.message()
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_model_ready(self.model),
            "encoded": [json.loads(result.as_numpy("results")[0]) for result in many],
            "outputs": own.as_numpy("scores").tolist(),
            "refused": refusal,
        }

    async def streamed(self) -> list[Any]:
        """Return what a stream of requests is answered, the second of which is at fault."""

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number, model in enumerate((self.model, "nothing", self.model)):
                yield {
                    "model_name": model,
                    "inputs": [self.given("image", self.image)],
                    "request_id": str(number),
                }

        answers = []
        async for result, error in self.client.stream_infer(requests()):
            answers.append(error.message() if error else json.loads(result.as_numpy("results")[0]))
        return answers


async def main(wire: str, address: str, model: str, folder: str) -> None:
    aio = importlib.import_module(f"tritonclient.{wire}.aio")
    async with aio.InferenceServerClient(address) as client:
        driver = Driver(wire, client, model, Path(folder))
        told = await driver.told()
        if wire == "grpc":
            told["streamed"] = await driver.streamed()
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
