"""Prepares images on a GPU: decode there what can be, send up the rest, one kernel for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from services.preprocess.gpu.bench import Bench
from services.preprocess.gpu.decoding import JpegDecoder
from services.preprocess.gpu.fit import Fitter
from services.preprocess.job import Job
from services.preprocess.pixels import Prepared
from visionmesh.errors import Reject
from visionmesh.gpu import Gpu
from visionmesh.gpu.failures import device_failures

Count = Callable[[str, str], None]
"""Takes where an image was decoded, ``device`` or ``host``, and why there."""


class GpuPreparer:
    """Prepares up to ``at_once`` bundles at the same time, each on a stream of its own.

    So one is decoded or copied while the kernel of another runs. A thread waits for its stream
    once, at the end: the slots may be committed then.
    """

    def __init__(
        self,
        *,
        gpu: Gpu,
        max_pixels: int,
        at_once: int,
        open_decoder: Callable[[Gpu], JpegDecoder | None],
        count: Count,
    ) -> None:
        Fitter(gpu=gpu).compile()
        self._benches: SimpleQueue[Bench] = SimpleQueue()
        for _ in range(at_once):
            self._benches.put(
                Bench(gpu=gpu, max_pixels=max_pixels, decoder=open_decoder(gpu), count=count)
            )

    def prepare(self, jobs: Sequence[Job]) -> list[Prepared | Reject]:
        """Fill the slots of ``jobs``, of the host or of the device, and note the times.

        All have the times of the bundle: they are worked on together.

        Raises
        ------
        Retry, Fatal
            If the device failed; no slot is to be believed then.
        """
        bench = self._benches.get()
        began_ns = time.time_ns()
        try:
            with device_failures():
                return bench.prepare(jobs)
        finally:
            self._benches.put(bench)
            ended_ns = time.time_ns()
            for job in jobs:
                job.began_ns, job.ended_ns = began_ns, ended_ns
