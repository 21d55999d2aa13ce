"""The kernel against what the CPU does, and through it against OpenCV."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.preprocess.formats.header import Color, Pixels
from services.preprocess.gpu.fit import Fit, Fitter, Stored, reduction
from services.preprocess.orientation import turn
from services.preprocess.resize import fit, plan
from services.preprocess.samples import to_color
from tests.services.preprocess.pictures import scene
from visionmesh.gpu import Gpu
from visionmesh.models.spec import InputSpec, Resize

SIDES = st.integers(1, 40) | st.sampled_from([61, 97, 3000])
ON_ONE_DEVICE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def uploaded(gpu: Gpu, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    device = gpu.xp.empty(pixels.shape, np.uint8)
    gpu.upload(np.ascontiguousarray(pixels), device)
    return device  # type: ignore[no-any-return] # of CuPy, perhaps


class Bench:
    """Runs the kernel on pictures of the host."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.fitter = Fitter(gpu=gpu)
        self.alive: list[object] = []

    def fit(self, stored: Stored, spec: InputSpec, squares: int = 1) -> Fit:
        """Return what is to be done, with room for pixels or the network's own input."""
        out = self.gpu.xp.full(spec.width * spec.height * spec.channels * 4, 201, np.uint8)
        self.alive.append(out)
        high, wide = stored.upright
        place = plan((wide, high), spec)
        return Fit(stored, spec, place, self.gpu.address(out), squares)

    def picture(self, pixels: Pixels, order: Color, orientation: int = 1) -> Stored:
        device = uploaded(self.gpu, pixels)
        self.alive.append(device)
        return Stored.of(self.gpu, device, order, orientation)

    def run(self, fits: list[Fit], *, normalised: bool = False) -> list[NDArray[np.uint8]]:
        """Return the bytes that the kernel wrote, and 201 behind them."""
        nbytes = Fitter.nbytes(len(fits))
        host, device = self.gpu.pinned(nbytes), self.gpu.xp.empty(nbytes, np.uint8)
        outs = [array for array in self.alive if self.gpu.address(array) in {f.out for f in fits}]
        self.fitter.write(fits, host, normalised=normalised)
        with self.gpu.stream() as stream:
            self.gpu.upload(host, device)
            self.fitter.launch(fits, device, normalised=normalised)
            results = [np.empty(array.shape, np.uint8) for array in outs]  # type: ignore[attr-defined]
            for array, result in zip(outs, results, strict=True):
                self.gpu.download(array, result)
            stream.synchronize()
        return results

    def pixels(self, stored: Stored, spec: InputSpec, squares: int = 1) -> Pixels:
        (found,) = self.run([self.fit(stored, spec, squares)])
        size = spec.height * spec.width * spec.channels
        assert (found[size:] == 201).all()
        return found[:size].reshape(spec.height, spec.width, spec.channels)


@pytest.fixture
def bench(gpu: Gpu) -> Bench:
    return Bench(gpu)


def by_cpu(pixels: Pixels, order: Color, orientation: int, spec: InputSpec) -> Pixels:
    samples = to_color(pixels, order, spec.color) if order != "GRAY" else pixels
    if order == "GRAY" and spec.channels > 1:
        samples = to_color(pixels, "RGB", spec.color)
    upright = turn(samples, orientation)
    out = np.full((spec.height, spec.width, spec.channels), 99, np.uint8)
    fit(upright, (upright.shape[1], upright.shape[0]), spec, out)
    return out


@ON_ONE_DEVICE
@example(
    size=(1, 1),
    wanted=(1, 2),
    resize=Resize.CROP,
    anchor="center",
    order="RGB",
    color="BGR",
    orientation=6,
    pad=0,
)
@example(
    size=(3000, 1),
    wanted=(40, 40),
    resize=Resize.CROP,
    anchor="center",
    order="RGB",
    color="RGB",
    orientation=8,
    pad=0,
)
@given(
    size=st.tuples(SIDES, SIDES),
    wanted=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.sampled_from(Resize),
    anchor=st.sampled_from(["center", "top_left"]),
    order=st.sampled_from(["RGB", "BGR", "GRAY"]),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]),
    orientation=st.integers(1, 8),
    pad=st.integers(0, 255),
)
def test_a_picture_is_the_cpus_to_the_last_bit(
    gpu: Gpu,
    *,
    size: tuple[int, int],
    wanted: tuple[int, int],
    resize: Resize,
    anchor: Literal["center", "top_left"],
    order: Color,
    color: Color,
    orientation: int,
    pad: int,
) -> None:
    width, height = size
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    if order == "GRAY":
        pixels = np.ascontiguousarray(pixels[..., :1])
    spec = InputSpec(
        width=wanted[0], height=wanted[1], resize=resize, anchor=anchor, color=color, pad=pad
    )
    bench = Bench(gpu)
    found = bench.pixels(bench.picture(pixels, order, orientation), spec)
    np.testing.assert_array_equal(found, by_cpu(pixels, order, orientation, spec))


@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (640, 480), (4001, 20)])
def test_usual_sizes_are_the_cpus_to_the_last_bit(
    bench: Bench, size: tuple[int, int], resize: Resize
) -> None:
    pixels = scene(*size)
    spec = InputSpec(width=640, height=640, resize=resize)
    np.testing.assert_array_equal(
        bench.pixels(bench.picture(pixels, "RGB"), spec), by_cpu(pixels, "RGB", 1, spec)
    )


def test_pictures_of_all_kinds_go_in_one_batch(bench: Bench) -> None:
    colours = scene(90, 61)
    opaque = np.dstack([colours, np.full((61, 90), 7, np.uint8)])
    grey = np.ascontiguousarray(scene(33, 200)[..., :1])
    given = [
        (bench.picture(colours, "RGB"), InputSpec(width=64, height=48), colours, "RGB"),
        (bench.picture(opaque, "RGB", 6), InputSpec(width=31, height=17), colours, "RGB"),
        (bench.picture(grey, "GRAY"), InputSpec(width=8, height=90, color="GRAY"), grey, "GRAY"),
        (bench.picture(grey, "GRAY"), InputSpec(width=40, height=41, color="BGR"), grey, "GRAY"),
    ]
    found = bench.run([bench.fit(stored, spec) for stored, spec, _, _ in given])
    for (stored, spec, pixels, order), bytes_ in zip(given, found, strict=True):
        expected = by_cpu(pixels, order, stored.orientation, spec)  # type: ignore[arg-type]
        np.testing.assert_array_equal(bytes_[: expected.size], expected.reshape(-1))
        assert (bytes_[expected.size :] == 201).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
def test_rows_may_lie_apart(bench: Bench, color: Color, orientation: int) -> None:
    pixels = scene(37, 23)
    spec = InputSpec(width=64, height=40, color=color)
    expected = by_cpu(pixels, "RGB", orientation, spec)
    wide = np.zeros((23, 50, 3), np.uint8)
    wide[:, :37] = pixels
    rows = uploaded(bench.gpu, wide)
    pitched = Stored.of(bench.gpu, rows[:, :37], "RGB", orientation)
    np.testing.assert_array_equal(bench.pixels(pitched, spec), expected)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["BGR", "GRAY"])
def test_the_networks_own_input_is_normalised(
    bench: Bench,
    *,
    color: Literal["BGR", "GRAY"],
    layout: Literal["NCHW", "NHWC"],
    dtype: Literal["float32", "float16"],
    rtol: float,
) -> None:
    channels = 1 if color == "GRAY" else 3
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    spec = InputSpec(
        **{"width": 50, "height": 20, "color": color, "layout": layout, "dtype": dtype},
        **{"scale": 1 / 255, "mean": mean, "std": std},
    )
    pixels = scene(61, 97)
    (found,) = bench.run([bench.fit(bench.picture(pixels, "RGB"), spec)], normalised=True)
    expected = (by_cpu(pixels, "RGB", 1, spec) / 255 - np.array(mean)) / np.array(std)
    if layout == "NCHW":
        expected = expected.transpose(2, 0, 1)
    values = found.view(dtype)[: expected.size].reshape(expected.shape)
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("size", "wanted", "squares"),
    [
        ((1920, 1080), (640, 640), 3),
        ((1280, 960), (640, 640), 2),
        ((1000, 999), (416, 416), 2),
        ((3000, 2400), (640, 512), 4),
        ((3000, 2900), (224, 224), 8),
        ((639, 900), (640, 640), 1),
    ],
)
def test_a_large_picture_is_averaged_on_the_way(
    bench: Bench, size: tuple[int, int], wanted: tuple[int, int], squares: int
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    spec = InputSpec(width=wanted[0], height=wanted[1])
    stored = bench.picture(pixels, "RGB")
    assert reduction(stored.upright, plan(size, spec)) == squares
    expected = averaged(pixels, "RGB", 1, spec, squares)
    np.testing.assert_array_equal(bench.pixels(stored, spec, squares), expected)


def averaged(
    pixels: Pixels, order: Color, orientation: int, spec: InputSpec, squares: int
) -> Pixels:
    """Return what the CPU makes of the averages, upright, over squares that are whole."""
    upright = turn(
        pixels if spec.color == order else to_color(pixels, "RGB", spec.color), orientation
    )
    size = upright.shape[1], upright.shape[0]
    width, height = (-(-side // squares) for side in size)
    pads = (0, height * squares - size[1]), (0, width * squares - size[0]), (0, 0)
    whole = np.pad(upright, pads, mode="edge").reshape(height, squares, width, squares, -1)
    smaller = np.floor(whole.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
    out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    fit(smaller, size, spec, out)
    return out


@ON_ONE_DEVICE
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.sampled_from(Resize),
    color=st.sampled_from(["RGB", "BGR", "GRAY"]),
    grey=st.booleans(),
    orientation=st.integers(1, 8),
    squares=st.sampled_from([2, 3, 4, 8]),
    neighbour=st.sampled_from([0, 2, 3]),
)
def test_squares_of_any_picture_are_averaged_to_the_last_bit(
    gpu: Gpu,
    *,
    size: tuple[int, int],
    resize: Resize,
    color: Color,
    grey: bool,
    orientation: int,
    squares: int,
    neighbour: int,
) -> None:
    bench, random = Bench(gpu), np.random.default_rng(4)
    shape = (size[1], size[0], 1 if grey and color == "GRAY" else 3)
    pixels = random.integers(0, 256, shape, np.uint8)
    order: Color = "GRAY" if shape[2] == 1 else "RGB"
    spec = InputSpec(width=11, height=9, resize=resize, color=color)
    fits = [bench.fit(bench.picture(pixels, order, orientation), spec, squares)]
    if neighbour:
        # Another size of squares in the batch: the kernel does not know it in advance then.
        fits.append(bench.fit(bench.picture(scene(20, 20), "RGB"), spec, neighbour))
    found, *_ = bench.run(fits)
    expected = averaged(pixels, order, orientation, spec, squares)
    np.testing.assert_array_equal(found[: expected.size], expected.reshape(-1))
