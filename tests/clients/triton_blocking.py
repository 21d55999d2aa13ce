"""Drive a stock blocking client of the Open Inference Protocol; print its answers as JSON.

Arguments: ``http`` or ``grpc``, the server's address, a model, and a folder. In it are ``image``,
an encoded one, ``pixels.npy``, ``(N, H, W, 3) uint8``, and ``own.npy``, N inputs of the network.
Then folders of models to store, with inputs of theirs beside them.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Json = dict[str, Any]


class Driver:
    """One client and what it sends."""

    def __init__(self, wire: str, address: str, model: str, folder: Path) -> None:
        self._wire = wire
        self.triton = importlib.import_module(f"tritonclient.{wire}")
        self.client = self.triton.InferenceServerClient(address)
        self.as_json = {} if wire == "http" else {"as_json": True}
        self.model = model
        self.image = np.array([(folder / "image").read_bytes()], dtype=object)
        self.pixels = np.load(folder / "pixels.npy")
        self.own = np.load(folder / "own.npy")

    def given(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        tensor = self.triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        return tensor

    def infer(self, name: str, array: np.ndarray[Any, Any], *wanted: Any, **more: Any) -> Any:
        return self.client.infer(
            self.model, [self.given(name, array)], outputs=list(wanted) or None, **more
        )

    def wanted(self, name: str, **more: Any) -> Any:
        return self.triton.InferRequestedOutput(name, **more)

    def config(self) -> Json:
        told: Json = self.client.get_model_config(self.model, **self.as_json)
        return told if self._wire == "http" else told["config"]

    def id_of(self, result: Any) -> str:
        response = result.get_response()
        id: str = response["id"] if self._wire == "http" else response.id
        return id

    def described(self) -> Json:
        client, as_json = self.client, self.as_json
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(self.model),
            "version_ready": client.is_model_ready(self.model, "1"),
            "nobody_ready": client.is_model_ready("nobody"),
            "no_version_ready": client.is_model_ready(self.model, "7"),
            "server": client.get_server_metadata(**as_json),
            "metadata": client.get_model_metadata(self.model, **as_json),
            "index": client.get_model_repository_index(**as_json),
            "statistics": client.get_inference_statistics(self.model, **as_json),
        }

    def inferred(self) -> Json:
        own, output = self.config()["input"][0]["name"], self.config()["output"][0]["name"]
        encoded = self.infer(
            "image", self.image, request_id="seven", priority=1, timeout=20_000_000
        )
        both = self.infer(own, self.own, self.wanted(output), self.wanted("results"))
        best = self.infer(own, self.own, self.wanted(output, class_count=2))
        one = self.infer("image", self.image, parameters={"top_k": 1})
        return {
            "id": encoded.get_response()["id"]
            if self._wire == "http"
            else encoded.get_response().id,
            "encoded": documents(encoded),
            "top_1": documents(one),
            "pixels": documents(self.infer("pixels", self.pixels)),
            "both": documents(both),
            "outputs": both.as_numpy(output).tolist(),
            "version": self.infer(own, self.own, model_version="1").as_numpy(output).tolist(),
            "best": [[text.decode() for text in texts] for texts in best.as_numpy(output)],
        }

    def carried(self) -> Json:
        """Return the outputs of the same input, by the ways in which both can travel."""
        own, output = self.config()["input"][0]["name"], self.config()["output"][0]["name"]
        ways: dict[str, Any] = {}
        encodings = (None, "gzip", "deflate")
        if self._wire == "grpc":
            for encoding in encodings:
                result = self.infer(own, self.own, compression_algorithm=encoding)
                ways[str(encoding)] = result.as_numpy(output).tolist()
            return ways
        for there in encodings:
            for back in encodings:
                compressed = {
                    "request_compression_algorithm": there,
                    "response_compression_algorithm": back,
                }
                result = self.infer(own, self.own, **compressed)
                ways[f"{there} {back}"] = result.as_numpy(output).tolist()
        in_json = self.triton.InferInput(own, self.own.shape, np_to_triton_dtype(self.own.dtype))
        in_json.set_data_from_numpy(self.own, binary_data=False)
        wanted = self.wanted(output, binary_data=False)
        result = self.client.infer(self.model, [in_json], outputs=[wanted])
        ways["json"] = result.as_numpy(output).tolist()
        return ways

    def large(self) -> int:
        """Return how many images of a request of 20 MB are answered."""
        return len(documents(self.infer("pixels", np.zeros((5, 1200, 1200, 3), np.uint8))))

    def reloaded(self, folder: Path) -> Json:
        """Store a model by its files, unload and load it, and remove nothing of it."""
        files = {
            f"file:{one.relative_to(folder)}": one.read_bytes()
            for one in sorted(file for file in folder.rglob("*") if file.is_file())
        }
        client, name = self.client, folder.name
        client.load_model(name, config="{}", files=files)
        told: Json = {"stored": client.is_model_ready(name)}
        client.unload_model(name)
        told["unloaded"] = client.is_model_ready(name)
        told["refused"] = refusal(lambda: client.infer(name, [self.given("image", self.image)]))
        client.load_model(name)
        told["loaded"] = client.is_model_ready(name)
        own = client.get_model_metadata(name, **self.as_json)["inputs"][2]
        array = np.load(folder.with_suffix(".npy"))
        result = client.infer(name, [self.given(own["name"], array)])
        told["outputs"] = result.as_numpy("scores").tolist()
        return told

    def as_ultralytics(self) -> Json:
        """Read a model's configuration, and ask it for all outputs, as Ultralytics does."""
        config = self.config()
        names = sorted(output["name"] for output in config["output"])
        kind = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_UINT8": np.uint8}
        (given,) = config["input"]
        dtype = kind[given["data_type"]]
        told = ast.literal_eval(config["parameters"]["metadata"]["string_value"])
        answer = self.infer(
            given["name"], self.own[:1].astype(dtype), *(self.wanted(name) for name in names)
        )
        return {
            "shapes": [answer.as_numpy(name).astype(dtype).shape for name in names],
            "task": told["task"],
            "names": list(told["names"].values()),
            "numbers": [int(told[name]) for name in ("stride", "batch", "channels")],
            "imgsz": told["imgsz"],
        }

    def refused(self) -> dict[str, str]:
        own = self.config()["input"][0]["name"]
        image = self.given("image", self.image)
        calls: dict[str, Callable[[], Any]] = {
            "unknown_model": lambda: self.client.infer("nothing", [image]),
            "unknown_version": lambda: self.infer("image", self.image, model_version="9"),
            "unknown_input": lambda: self.infer("what", self.image),
            "unknown_output": lambda: self.infer("image", self.image, self.wanted("what")),
            "wrong_shape": lambda: self.infer(own, self.own[:, :, 1:]),
            "wrong_datatype": lambda: self.infer(own, self.own.astype(np.float64)),
            "no_image": lambda: self.infer("image", np.array([b"text"], dtype=object)),
            "too_late": lambda: self.infer("image", self.image, timeout=1),
            "sequence": lambda: self.infer("image", self.image, sequence_id=5),
            "parameter": lambda: self.infer("image", self.image, parameters={"warmth": 3}),
        }
        return {name: refusal(call) for name, call in calls.items()}


def documents(result: Any) -> list[Json]:
    return [json.loads(text) for text in result.as_numpy("results")]


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "not refused"


def main(wire: str, address: str, model: str, folder: str, *stored: str) -> None:
    driver = Driver(wire, address, model, Path(folder))
    told = {
        "inferred": driver.inferred(),
        "described": driver.described(),
        "carried": driver.carried(),
        "large": driver.large(),
        "as_ultralytics": driver.as_ultralytics(),
        "refused": driver.refused(),
        "reloaded": [driver.reloaded(Path(one)) for one in stored],
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
