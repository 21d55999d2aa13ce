"""The kernel that makes a model's input of decoded pictures, against what moving their bytes takes.

    python -m bench.gpu.preprocess

Pictures of 1920 by 1080 lie decoded in the device's memory and become inputs of 640 by 640,
letterboxed: pixels, and FP16 normalised for the network. Each pixel counts, as three by three are
averaged. The floor is reading each picture and writing each input once at the bandwidth of a copy.
Several sets of pictures take turns, so that none is in the device's cache. The first input must be
within one grey level of what the emulated device makes of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.gpu.figures import Figure, options
from bench.gpu.machine import ceilings
from bench.gpu.pictures import Pixels, picture
from bench.gpu.timing import device_seconds
from services.preprocess.gpu.fit import Fit, Fitter, Stored, reduction
from services.preprocess.resize import plan
from visionmesh.gpu import Gpu, open_gpu
from visionmesh.gpu.gpu import DeviceArray
from visionmesh.models.spec import InputSpec

_BATCHES = (8, 32)
_AT_LEAST_BYTES = 256 << 20
"""Of all sets together: several times the cache of any device."""


@dataclass(frozen=True)
class Set:
    """Pictures and the inputs that they become, on a device."""

    pictures: tuple[DeviceArray, ...]
    inputs: DeviceArray
    fits: tuple[Fit, ...]
    table: DeviceArray


def upload(
    gpu: Gpu, pictures: Sequence[Pixels], spec: InputSpec, *, normalised: bool = False
) -> Set:
    """Bring pictures to the device, with all that the kernel is told of them; wait for it."""
    size = spec.width * spec.height * spec.channels * (2 if normalised else 1)
    table = gpu.pinned(Fitter.nbytes(len(pictures)))
    with gpu.stream() as stream:
        there = [gpu.xp.asarray(one) for one in pictures]
        inputs = gpu.xp.full((len(pictures), size), 201, np.uint8)
        stored = [Stored.of(gpu, one, "RGB") for one in there]
        places = [plan((one.upright[1], one.upright[0]), spec) for one in stored]
        fits = [
            Fit(one, spec, place, gpu.address(out), reduction(one.upright, place))
            for one, place, out in zip(stored, places, inputs, strict=True)
        ]
        Fitter(gpu=gpu).write(fits, table, normalised=normalised)
        on_device = gpu.xp.empty(table.nbytes, np.uint8)
        gpu.upload(table, on_device)
        stream.synchronize()
    return Set(tuple(there), inputs, tuple(fits), on_device)


def first_input(gpu: Gpu, one: Pixels, spec: InputSpec, *, normalised: bool) -> Pixels:
    """Return the bytes that the kernel makes of one picture."""
    made = upload(gpu, [one], spec, normalised=normalised)
    home = np.empty(made.inputs[0].shape, np.uint8)
    with gpu.stream() as stream:
        Fitter(gpu=gpu).launch(made.fits, made.table, normalised=normalised)
        gpu.download(made.inputs[0], home)
        stream.synchronize()
    return home


def compare(here: Pixels, there: Pixels, *, normalised: bool) -> int:
    """Return how many values are not the same; assert that none is a grey level apart."""
    dtype, level = (np.float16, 1 / 255) if normalised else (np.uint8, 1)
    apart = np.abs(here.view(dtype).astype(np.float32) - there.view(dtype).astype(np.float32))
    assert apart.max() <= level + 1e-3, f"the kernel is {apart.max():.3g} apart from the CPU"
    return int(np.count_nonzero(apart))


def measure(
    gpu: Gpu, pictures: Sequence[Pixels], spec: InputSpec, *, normalised: bool
) -> tuple[float, int]:
    """Return the seconds for a batch, and the bytes that must move for it."""
    own = sum(one.nbytes for one in pictures)
    count = 1 if gpu.info.kind == "emulated" else max(2, -(-_AT_LEAST_BYTES // own))
    sets = [upload(gpu, pictures, spec, normalised=normalised) for _ in range(count)]
    stream, fitter = gpu.stream(), Fitter(gpu=gpu)

    def launch() -> None:
        for one in sets:
            fitter.launch(one.fits, one.table, normalised=normalised)

    with stream:
        launch()
        stream.synchronize()
    # To launch a kernel takes Python about as long as it takes the device to run this one.
    took = device_seconds(gpu, stream, stream.capture(launch), repeats=2 if count == 1 else 20)
    return took / count, own + sets[0].inputs.nbytes


def main() -> None:
    arguments = options(__doc__).parse_args()
    gpu, tiny = open_gpu(arguments.device), arguments.tiny
    bandwidth = ceilings(gpu, tiny=tiny).bytes_per_s
    side, width, height = (64, 192, 108) if tiny else (640, 1920, 1080)
    spec = InputSpec(width=side, height=side, scale=1 / 255, dtype="float16")
    for normalised, what in ((False, "pixels"), (True, "normalised FP16")):
        some = [picture(number, width=width, height=height) for number in range(4)]
        here = first_input(gpu, some[0], spec, normalised=normalised)
        there = first_input(open_gpu("emulated"), some[0], spec, normalised=normalised)
        differing = compare(here, there, normalised=normalised)
        for batch in _BATCHES[: 1 if tiny else None]:
            pictures = [some[number % len(some)] for number in range(batch)]
            took, moved = measure(gpu, pictures, spec, normalised=normalised)
            floor = moved / bandwidth
            Figure(
                what=f"{batch} pictures of {width}x{height} to {side}x{side}, {what}: "
                "share of the copy-bandwidth floor",
                value=floor / took,
                at_least=0.6,
                floor=f"{moved / 1e6:.1f} MB at {bandwidth / 1e9:,.0f} GB/s: {floor * 1e6:.1f} µs",
                note=f"{took * 1e6:.1f} µs a batch; {differing} values unlike the CPU's",
            ).tell()


if __name__ == "__main__":
    main()
