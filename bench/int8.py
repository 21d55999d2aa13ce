"""INT8 against FP32 on this CPU: size, accuracy and speed of a network of ResNet-50's shape.

    python -m bench.int8 --views 2

Makes the network (see `bench.resnet50`), calibrates with a third of the photos' views and judges
with the others, as `visionmesh optimize` does. Times are medians of one image with one thread, all
networks in turns. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.resnet50 import FITTED, resnet50_folder, views
from visionmesh.models.folder import load_folder
from visionmesh.models.optimizing import Report, optimize
from visionmesh.models.variants import Precision


def save_views(folder: Path, count: int) -> Path:
    """Write ``count`` views of each photo that the network was not fitted to, by their labels."""
    for number in range(FITTED, FITTED + count):
        for picture in views(number):
            file = folder / (picture.truth or "") / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture.encoded)
    return folder


def measure(count: int) -> Report:
    with tempfile.TemporaryDirectory(prefix="visionmesh-int8-") as scratch:
        root = Path(scratch)
        print("making the network", flush=True)
        folder = load_folder(resnet50_folder(root))
        images = save_views(root / "images", count)
        return optimize(
            folder,
            precision=Precision.INT8,
            images=images,
            said=lambda line: print(line, flush=True),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--views", type=int, default=2, help="of each photo")
    report = measure(parser.parse_args().views)
    first = report.original
    print(f"\n{'':<12}{'MB':>8}{'accuracy':>10}{'equal':>8}{'ms':>8}{'faster':>8}")
    print(
        f"{'fp32':<12}{first.size_bytes / 1e6:>8.1f}{first.accuracy:>10.1%}{'':>8}{first.ms:>8.1f}"
    )
    for one in report.made:
        print(
            f"{'int8 ' + one.scheme:<12}{one.size_bytes / 1e6:>8.1f}{one.trial.accuracy:>10.1%}"
            f"{one.trial.agreement.answers:>8.1%}{one.ms:>8.1f}{one.faster:>7.2f}x"
        )
    told = report.model_dump(mode="json", exclude={"made": {"__all__": {"in_float"}}})
    print(json.dumps({"benchmark": "int8", **told}))


if __name__ == "__main__":
    main()
