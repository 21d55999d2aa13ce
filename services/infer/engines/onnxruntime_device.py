"""ONNX Runtime on a GPU: images and outputs stay in its memory, batches are replayed as graphs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import count as numbers
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import onnxruntime

from services.infer.engines import Engine, PlanStore
from services.infer.engines.device import DeviceEngine, only_sizes
from services.infer.engines.host import NetworkError
from services.infer.engines.onnxruntime_provider import ERRORS, Opened, as_told, open_session
from visionmesh.errors import Code, ConfigurationError
from visionmesh.gpu import Gpu, GpuError, Stream, open_gpu
from visionmesh.gpu.gpu import DeviceArray, GpuMemoryError
from visionmesh.models.check import DTYPES
from visionmesh.models.spec import Instance, ModelSpec
from visionmesh.models.variants import Precision

_NO_GRAPH = -1
"""As a graph's number: do not record this run."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def open_engines(
    weights: Path,
    spec: ModelSpec,
    instance: Instance,
    *,
    count: int,
    precision: Precision,
    plans: PlanStore | None,
) -> tuple[Engine, ...]:
    """Return ``count`` engines that share one session, and with it the weights.

    Raises
    ------
    ConfigurationError
        (model_invalid) if ONNX Runtime cannot load ``weights``, cannot compute in ``precision``, or
        was built or installed without what the device needs.
    GpuError
        If the device fails.
    """
    if precision is Precision.BF16:
        raise ConfigurationError(
            Code.MODEL_INVALID, f"ONNX Runtime cannot run model {spec.name!r} in bf16 by itself."
        )
    gpu = open_gpu(instance.device)

    def opened(stream: Stream, *, graphs: bool) -> Opened:
        return open_session(
            weights=weights, spec=spec, instance=instance, gpu=gpu, stream=stream, graphs=graphs
        )

    driver = _Driver(gpu=gpu, opened=opened, users=count)
    sizes = only_sizes(driver.fixed_batch, spec.batching.max_size)
    engines: list[Engine] = []
    networks = [_Network(driver=driver, batch_sizes=sizes) for _ in range(count)]
    try:
        engines.extend(DeviceEngine(gpu=gpu, network=network, spec=spec) for network in networks)
    except BaseException:
        for engine in engines:
            engine.close()
        for network in networks:
            network.close()
        raise
    return tuple(engines)


class _Driver:
    """One session on one stream, run by one thread, for all slots of an instance.

    ONNX Runtime keeps graphs for the thread that recorded them, and a session that has some must
    not be run by two threads at once.
    """

    def __init__(self, *, gpu: Gpu, opened: Callable[..., Opened], users: int) -> None:
        self.gpu = gpu
        self.stream = gpu.stream()
        on_cuda = gpu.info.kind == "cuda"
        self.place = ("cuda", gpu.info.index) if on_cuda else ("cpu", 0)
        """Where memory is, as ONNX Runtime says it."""
        self.graph_numbers = numbers(1)
        self.bound: list[dict[int, _Bound]] = []
        """What the slots have bound to the session, and go without when there is another."""
        self._opened = opened
        self._users = users
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # As a daemon it cannot keep a process alive that ends while something is computed.
        threading.Thread(target=self._work, name="onnxruntime", daemon=True).start()
        try:
            self.session, self.graphs = self.do(opened, self.stream, graphs=True)
        except BaseException:
            self._calls.put(None)
            raise
        first = self.session.get_inputs()[0].shape[0]
        self.fixed_batch = first if isinstance(first, int) else None

    def do(self, call: Callable[..., T], *args: Any, **more: Any) -> T:
        """Call it in the session's thread."""
        answer: Future[T] = Future()
        self._calls.put(partial(_answer, answer, partial(call, *args, **more)))
        try:
            return answer.result()
        finally:
            # Of an error, whose frames would keep it and what they had in hand.
            del answer

    def _work(self) -> None:
        while call := self._calls.get():
            call()
            del call  # what it has made is not kept until the next one comes

    def give_up_graphs(self, why: Exception) -> None:
        """Open the session anew, as one whose recording failed cannot be used any more."""
        log.warning("ONNX Runtime cannot record what it runs, and goes on without: %s", why)
        for sizes in self.bound:
            sizes.clear()
        del self.session
        self.session, self.graphs = self._opened(self.stream, graphs=False)

    def run(self, binding: Any, *, graph: int) -> None:
        options = onnxruntime.RunOptions()
        # What must wait for the outputs waits by an event.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", str(graph))
        options.log_severity_level = 4
        try:
            self.session.run_with_iobinding(binding, options)
        except ERRORS as error:
            raise as_told(error) from error

    def leave(self) -> None:
        """Free the session with its last user."""
        self._users -= 1
        if not self._users:
            self.do(self.__dict__.pop, "session", None)
            self._calls.put(None)


def _answer(answer: Future[T], call: Callable[[], T]) -> None:
    try:
        answer.set_result(call())
    except BaseException as error:  # for who waits, whatever it is
        answer.set_exception(error)
    finally:
        del answer


@dataclass
class _Bound:
    """A batch size's memory as the session knows it."""

    binding: Any
    graph: int
    """The number under which it is recorded."""
    outputs: dict[str, DeviceArray]
    """Those whose shape is known before."""
    unknown: tuple[str, ...]
    """The others, for which the session finds memory each time."""
    ran: bool = False


class _Network:
    """The session with memory of its own for each batch size."""

    def __init__(self, *, driver: _Driver, batch_sizes: tuple[int, ...]) -> None:
        self._driver = driver
        self.batch_sizes = batch_sizes
        self._sizes: dict[int, _Bound] = {}
        driver.bound.append(self._sizes)
        self._open = True

    def __call__(self, images: DeviceArray, stream: Stream) -> Mapping[str, DeviceArray]:
        return self._driver.do(self._run, images, stream)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._sizes.clear()
            self._driver.leave()

    def _run(self, images: DeviceArray, stream: Stream) -> Mapping[str, DeviceArray]:
        with self._driver.stream as own:
            own.wait(stream.record())
            bound = self._bound(images)
            try:
                self._compute(bound)
            except (NetworkError, GpuError) as error:
                if bound.ran or not self._driver.graphs or isinstance(error, GpuMemoryError):
                    raise
                self._driver.give_up_graphs(error)
                bound = self._bound(images)
                self._compute(bound)
            outputs = bound.outputs | self._allocated(bound)
            stream.wait(own.record())
        return outputs

    def _compute(self, bound: _Bound) -> None:
        # What the last run allocated would be taken for memory that is to be used again.
        for name in bound.unknown:
            bound.binding.bind_output(name, *self._driver.place)
        self._driver.run(bound.binding, graph=bound.graph)
        bound.ran = True

    def _bound(self, images: DeviceArray) -> _Bound:
        bound = self._sizes.get(len(images))
        if bound is None:
            bound = self._sizes[len(images)] = self._bind(images)
        return bound

    def _bind(self, images: DeviceArray) -> _Bound:
        driver, session = self._driver, self._driver.session
        (wanted,), found = session.get_inputs(), session.get_outputs()
        binding = session.io_binding()
        address = driver.gpu.address(images)
        binding.bind_input(wanted.name, *driver.place, images.dtype.type, images.shape, address)
        shapes = {one.name: (len(images), *one.shape[1:]) for one in found}
        if driver.graphs:
            # What is recorded cannot depend on what is in the images.
            shapes = self._tried(binding)
        outputs, unknown = {}, []
        for one in found:
            if not all(isinstance(side, int) for side in shapes[one.name]):
                binding.bind_output(one.name, *driver.place)
                unknown.append(one.name)
                continue
            array = driver.gpu.xp.empty(shapes[one.name], DTYPES[one.type])
            outputs[one.name] = array
            address = driver.gpu.address(array)
            binding.bind_output(one.name, *driver.place, array.dtype.type, array.shape, address)
        graph = next(driver.graph_numbers) if driver.graphs else _NO_GRAPH
        return _Bound(binding=binding, graph=graph, outputs=outputs, unknown=tuple(unknown))

    def _tried(self, binding: Any) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs, as a run has them."""
        names = [one.name for one in self._driver.session.get_outputs()]
        for name in names:
            binding.bind_output(name, *self._driver.place)
        self._driver.run(binding, graph=_NO_GRAPH)
        shapes = {n: tuple(v.shape()) for n, v in zip(names, binding.get_outputs(), strict=True)}
        binding.clear_binding_outputs()
        return shapes

    def _allocated(self, bound: _Bound) -> dict[str, DeviceArray]:
        """Return the outputs for which the session found the memory."""
        if not bound.unknown:
            return {}
        outputs = self._driver.session.get_outputs()
        values = zip(outputs, bound.binding.get_outputs(), strict=True)
        read = self._driver.gpu.xp.from_dlpack
        # Truth values come as bytes.
        return {
            one.name: read(value).view(DTYPES[one.type])
            for one, value in values
            if one.name in bound.unknown
        }
