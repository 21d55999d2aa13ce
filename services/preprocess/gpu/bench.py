"""Where one bundle at a time is prepared on a GPU: a stream, and memory to work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.preprocess.decode import FORMATS, Envelope, open_image
from services.preprocess.formats import jpeg
from services.preprocess.formats.header import Color, Pixels
from services.preprocess.gpu.decoding import JpegDecoder
from services.preprocess.gpu.fit import Fit, Fitter, Stored, reduction
from services.preprocess.job import Job
from services.preprocess.orientation import turn
from services.preprocess.pixels import Prepared, size_of
from services.preprocess.resize import Plan, draw, plan
from services.preprocess.samples import to_color
from visionmesh.errors import Reject
from visionmesh.gpu import Gpu
from visionmesh.gpu.staging import Place, Staging

_JPEG: Final = FORMATS[0]
_STAGING_BYTES: Final = 64 << 20
"""Ten pictures of 1920 by 1080 that were unpacked on the host."""
_LARGEST_BYTES: Final = 32 << 20
"""Of an unpacked picture that is sent up as it is; a larger one is resized on the host."""
_BUNDLE: Final = 8
"""Images that usually come at once."""
_HOME_BYTES: Final = 16 << 20
"""Of inputs that are wanted on the host; more is allocated when needed."""


@dataclass(slots=True)
class _Picture:
    """One image that was found acceptable."""

    job: Job
    image: Envelope | None
    """`None` for pixels that a caller gave."""
    original: tuple[int, int]
    """Width and height, upright."""
    place: Plan
    stored: Stored | None = None
    """Once it is decoded on the device."""
    why: str = ""
    """Why it is to be decoded on the host."""

    @property
    def prepared(self) -> Prepared:
        return Prepared(*self.original, self.place.placement(self.original))


class Bench:
    """Prepares bundles; used by one thread at a time."""

    def __init__(
        self,
        *,
        gpu: Gpu,
        max_pixels: int,
        decoder: JpegDecoder | None,
        count: Callable[[str, str], None],
    ) -> None:
        self._gpu = gpu
        self._max_pixels = max_pixels
        self._decoder = decoder
        self._count = count
        self._fitter = Fitter(gpu=gpu)
        self._stream = gpu.stream()
        with self._stream:
            self._table = Staging(gpu=gpu, sizes=[Fitter.nbytes(_BUNDLE)])
            self._up = Staging(gpu=gpu, sizes=[_STAGING_BYTES])
            self._down = Staging(gpu=gpu, sizes=[_HOME_BYTES])
        self._fits: list[Fit] = []
        self._homes: list[tuple[Job, Place]] = []
        self._kept: list[object] = []

    def prepare(self, jobs: Sequence[Job]) -> list[Prepared | Reject]:
        """Fill the slots of ``jobs``; raise `GpuError` if the device failed."""
        opened = [self._open(job) for job in jobs]
        homes = [job.nbytes for job in jobs if job.slot.device is None]
        with self._stream:
            self._down.reserve(homes)
            try:
                self._decode([one for one in opened if isinstance(one, _Picture)])
                outcomes = [self._prepare(one) for one in opened]
                self._flush()
            finally:
                try:
                    # Nothing may be under way in slots that are given back, and freed memory.
                    self._stream.synchronize()
                finally:
                    self._clear()
                    self._kept.clear()
        return outcomes

    def _open(self, job: Job) -> _Picture | Reject:
        try:
            if (given := job.given) is not None:
                original = size_of(given, max_pixels=self._max_pixels)
                return _Picture(job, None, original, plan(original, job.spec))
            image = open_image(job.payload, max_pixels=self._max_pixels)
        except Reject as error:
            return error
        original = image.width, image.height
        return _Picture(job, image, original, plan(original, job.spec))

    def _decode(self, pictures: Sequence[_Picture]) -> None:
        """Decode on the device what can be; note of all others why not."""
        by_color: dict[Color, list[tuple[_Picture, Envelope]]] = {"RGB": [], "GRAY": []}
        for picture in pictures:
            if picture.image is not None:
                picture.why = self._why_on_host(picture.image)
                if not picture.why:
                    color: Color = "GRAY" if picture.job.spec.color == "GRAY" else "RGB"
                    by_color[color].append((picture, picture.image))
        for color, group in by_color.items():
            if self._decoder is None or not group:
                continue
            found = self._decoder.decode([image.data for _, image in group], color, self._stream)
            for (picture, image), decoded in zip(group, found, strict=True):
                if decoded is None:
                    picture.why = "failed"
                else:
                    orientation = image.header.orientation
                    picture.stored = replace(decoded.stored, orientation=orientation)
                    self._kept.append(decoded.memory)

    def _why_on_host(self, image: Envelope) -> str:
        if image.format is not _JPEG:
            return "format"
        if self._decoder is None:
            return "absent"
        return "" if jpeg.is_usual(image.data) else "kind"

    def _prepare(self, picture: _Picture | Reject) -> Prepared | Reject:
        """Have the next flush make the input of one picture."""
        if isinstance(picture, Reject):
            return picture
        if picture.stored is None:
            try:
                stored, place = self._send_up(picture)
            except Reject as error:
                return error
            squares = 1
        else:
            stored, place = picture.stored, picture.place
            squares = reduction(stored.upright, place)
        if picture.image is not None:
            self._count("host" if picture.why else "device", picture.why)
        out = self._out(picture.job)
        self._fits.append(Fit(stored, picture.job.spec, place, out, squares))
        return picture.prepared

    def _send_up(self, picture: _Picture) -> tuple[Stored, Plan]:
        """Unpack a picture on the host, into the staging."""
        pixels, order, orientation = _unpack(picture)
        spec, place = picture.job.spec, picture.place
        if pixels.nbytes > _LARGEST_BYTES:
            picture.why = "large"
            colored = to_color(pixels, "RGB", spec.color) if order != spec.color else pixels
            pixels = _drawn(turn(colored, orientation), picture)
            order, orientation, place = spec.color, 1, Plan(spec.width, spec.height, 0, 0)
        room = self._up.take(pixels.nbytes)
        if room is None:
            self._flush()
            # An input of the largest size that a model may have is more than there is.
            self._up.reserve([pixels.nbytes])
            room = self._up.take(pixels.nbytes)
        assert room is not None
        np.copyto(room.host.reshape(pixels.shape), pixels)
        device = room.device.reshape(pixels.shape)
        return Stored.of(self._gpu, device, order, orientation), place

    def _out(self, job: Job) -> int:
        """Return the address on the device of what is to be made."""
        device = job.slot.device
        if device is None:
            home = self._down.take(job.nbytes)
            assert home is not None
            self._homes.append((job, home))
            device = home.device
        return self._gpu.address(device)

    def _flush(self) -> None:
        """Make the inputs of all pictures that are at hand, and wait for them."""
        if self._fits:
            nbytes = Fitter.nbytes(len(self._fits))
            self._table.reserve([nbytes])
            table = self._table.take(nbytes)
            assert table is not None
            self._fitter.write(self._fits, table.host)
            self._table.upload()
            self._up.upload()
            self._fitter.launch(self._fits, table.device)
            self._down.download()
            self._stream.synchronize()
            for job, home in self._homes:
                np.copyto(job.pixels.reshape(-1), home.host)
        self._clear()

    def _clear(self) -> None:
        self._fits.clear()
        self._homes.clear()
        for staging in (self._table, self._up, self._down):
            staging.clear()


def _unpack(picture: _Picture) -> tuple[Pixels, Color, int]:
    """Return what is to be sent up, the order of its colours, and its orientation."""
    image, place, color = picture.image, picture.place, picture.job.spec.color
    if image is None:
        assert picture.job.given is not None
        return picture.job.given, "RGB", 1
    pixels = image.unpack_stored(color, (place.height, place.width))
    return pixels, color, image.header.orientation


def _drawn(pixels: Pixels, picture: _Picture) -> Pixels:
    """Return the input of a picture that is upright and of the right colours."""
    spec = picture.job.spec
    out = np.empty((spec.height, spec.width, spec.channels), np.uint8)
    draw(pixels, picture.place, picture.original, spec.pad, out)
    return out
