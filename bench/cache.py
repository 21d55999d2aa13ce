"""Hot images: requests drawn by Zipf's law over a thousand distinct ones, with and without cache.

    python -m bench.cache

Image number k is asked for in proportion to k to the power of -1.1. The cache starts empty. Prints
a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import uvloop

from bench.load import Driver, Load, distinct, fresh_mesh, photos
from bench.models import yolox_folder

EXPONENT = 1.1
DISTINCT = 1000
IN_FLIGHT = 64


def zipf(images: list[bytes], *, seed: int = 0) -> Iterator[bytes]:
    """Yield images for ever, the first most often."""
    random = np.random.default_rng(seed)
    weights = np.arange(1, len(images) + 1) ** -EXPONENT
    weights /= weights.sum()
    while True:
        for index in random.choice(len(images), 1000, p=weights):
            yield images[index]


async def run(folder: Path, *, count: int) -> Load:
    images = list(islice(distinct(photos()), DISTINCT))
    async with fresh_mesh(folder) as (_, mesh):
        driver = Driver(mesh=mesh, model=folder.name)
        return await driver.run(zipf(images), in_flight=IN_FLIGHT, count=count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="requests with the cache")
    parser.add_argument("--without", type=int, default=1500, help="requests without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        cached = yolox_folder(Path(root) / "with")
        plain = yolox_folder(Path(root) / "without", cache=False)
        hot = uvloop.run(run(cached, count=arguments.count))
        cold = uvloop.run(run(plain, count=arguments.without))
    hits = sum(number for level, number in hot.cached.items() if level != "none")
    found = {
        "hit_rate": round(hits / len(hot.latencies), 4),
        "levels": hot.cached,
        "with_per_s": round(hot.rate, 1),
        "without_per_s": round(cold.rate, 1),
        "ratio": round(hot.rate / cold.rate, 2),
    }
    for name, value in found.items():
        print(f"{name:<16}{value!s:>16}")
    print(json.dumps({"benchmark": "cache", "cpus": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
