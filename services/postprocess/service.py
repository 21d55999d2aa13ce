"""The postprocess worker: the engine's outputs in, results out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from services.postprocess.decoders import Arrays, Decoder, load_decoder
from services.postprocess.features import FeaturesError, pack, unpack
from services.postprocess.gpu import Reduced
from services.postprocess.gpu.bundles import Bundles
from visionmesh import subjects
from visionmesh.context import Context
from visionmesh.contracts import Answer, CacheInfo, ImageInfo, Reference, Result, Want
from visionmesh.errors import Code, ConfigurationError, Reject, Retry
from visionmesh.heatmaps import HeatmapStore
from visionmesh.models.record import ModelRecord
from visionmesh.models.spec import Task
from visionmesh.nodes import version_key
from visionmesh.service import Worker
from visionmesh.settlement import recognised
from visionmesh.stage import Done, Ended, Item, Stage
from visionmesh.stored import FeaturesHead, StoredAnswer, cache_keys, join_features
from visionmesh.telemetry.spans import SpanName
from visionmesh.tensors import arrays

log = logging.getLogger(__name__)

_SLOW = frozenset({Task.SEGMENTATION, Task.ANOMALY})
"""Tasks whose answers speak of each pixel: milliseconds to a second, in which others must live."""


class Postprocess(Worker):
    """Decodes outputs, remembers what they said, and answers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stage = Stage(context=context, handler=self._answer_all)
        self._decoders: dict[tuple[str, int], Decoder] = {}
        self._faults: dict[tuple[str, int], str] = {}
        self._applied: dict[str, int] = {}
        """The revision of the record of each model, of which the others tell."""
        self._bundles = Bundles(gpu=context.gpu, count=self._count) if context.gpu else None
        self._heatmaps = HeatmapStore(
            context.connection.client, replicas=context.settings.events.replicas
        )

    @property
    def in_hand(self) -> int:
        return self._stage.in_hand

    async def start(self) -> None:
        if self._context.gpu is not None:
            device = self._context.settings.postprocess.device
            await self._context.nodes.update(device=device)
        self._context.catalog.on_change(self._model_changed)
        await self._context.catalog.start()
        await self._stage.start()
        await self._stage.listen_lanes(subjects.OUTPUTS, "vm.outputs.*")

    async def stop(self) -> None:
        await self._stage.stop()

    def _count(self, model: str, outcome: str, images: int) -> None:
        self._context.metrics.model(model).device(outcome, images)

    async def _model_changed(self, name: str, record: ModelRecord | None) -> None:
        for known in (self._decoders, self._faults):
            for key in [key for key in known if key[0] == name]:
                del known[key]
        if self._bundles is not None:
            self._bundles.forget(name)
        if record is not None:
            self._load(record)
            self._applied[name] = record.revision
        else:
            self._applied.pop(name, None)
        failed = {version_key(*key): why for key, why in self._faults.items()}
        await self._context.nodes.update(failed=failed, applied=dict(self._applied))
        if self._bundles is not None:
            own = {key: decoder for key, decoder in self._decoders.items() if key[0] == name}
            await self._bundles.load(own)
            reduces = tuple(version_key(*key) for key in self._bundles.reduces)
            await self._context.nodes.update(reduces=reduces)

    def _load(self, record: ModelRecord) -> None:
        name = record.spec.name
        for version in record.versions:
            try:
                self._decoders[name, version] = load_decoder(record.spec_of(version))
            except ConfigurationError as error:
                log.error("version %d: %s", version, error)
                self._faults[name, version] = error.message

    async def _answer_all(self, items: Sequence[Item]) -> AsyncIterator[Sequence[Ended]]:
        ended: list[Ended] = []
        reduced = await self._bundles.reduce(items) if self._bundles is not None else {}
        for item in items:
            try:
                ended.append((item, await self._answer(item, reduced.get(id(item)))))
            except (Reject, Retry) as error:
                ended.append((item, error))
        yield ended

    async def _answer(self, item: Item, reduced: Reduced | None) -> Done:
        began = time.time_ns()
        reference = item.reference
        record = self._context.catalog.admitted(reference.model, reference.version)
        decoder = self._decoders.get((reference.model, reference.version))
        if decoder is None:
            raise Reject(Code.MODEL_INVALID, self._faults[reference.model, reference.version])
        keys = (reference.result_key, reference.features_key)
        remembers = reference.result_key is not None and keys == cache_keys(reference, record)
        if record.spec.task in _SLOW:
            answer, features = await asyncio.to_thread(
                self._decode, item, decoder, reduced, keep=remembers
            )
        else:
            answer, features = self._decode(item, decoder, reduced, keep=remembers)
        item.trail.step(SpanName.DECODE_OUTPUTS, began, time.time_ns())
        if answer.heatmap is not None:
            # Before anybody, the cache included, hears of it.
            await self._heatmaps.store(answer.heatmap.png)
        if remembers:
            self._remember(reference, record, answer, features)
        result = self._result(item, answer)
        if reference.want is not Want.BOTH:
            return Done(result)
        outputs = arrays(item.reading.view, reference.tensors)
        handover = await self._context.hand_over(reference, outputs)
        item.reading.check()
        return Done(result, handover)

    def _decode(
        self, item: Item, decoder: Decoder, reduced: Reduced | None, *, keep: bool
    ) -> tuple[Answer, bytes | None]:
        """Return the answer, and the features for the cache where they are new and wanted."""
        reference = item.reference
        assert reference.placement is not None
        if reduced is None:
            features = self._features(item, decoder)
            reduced = Reduced(features, partial(decoder.answer, features))
        else:
            item.reading.check()
        try:
            answer = reduced.answer(
                reference.params, reference.placement, reference.width, reference.height
            )
        except FeaturesError as error:
            raise Retry(str(error)) from error
        if reference.features or not keep:
            return answer, None
        head = FeaturesHead(
            width=reference.width, height=reference.height, placement=reference.placement
        )
        return answer, join_features(head, pack(reduced.features))

    def _features(self, item: Item, decoder: Decoder) -> Arrays:
        """Return the cached features, or those in the engine's outputs."""
        reference, reading = item.reference, item.reading
        if reference.features:
            try:
                return unpack(bytes(reading.view))
            except FeaturesError as error:
                raise Retry(str(error)) from error
        try:
            return decoder.reduce(arrays(reading.view, reference.tensors))
        finally:
            # What was overwritten meanwhile may look like a network that fails.
            reading.check()

    def _remember(
        self, reference: Reference, record: ModelRecord, answer: Answer, features: bytes | None
    ) -> None:
        assert reference.result_key is not None
        stored = StoredAnswer(**answer.recognised(), width=reference.width, height=reference.height)
        self._context.cache.store(
            reference.result_key,
            stored.to_bytes(),
            reference.features_key,
            features,
            ttl=record.spec.cache.ttl,
        )

    def _result(self, item: Item, answer: Answer) -> Result:
        reference = item.reference
        width, height, hit = reference.width, reference.height, reference.features
        cache = CacheInfo(hit=hit, level="features" if hit else None)
        return recognised(
            reference,
            answer,
            item.trail,
            image=ImageInfo(width=width, height=height, sha256=reference.sha256),
            cache=cache if reference.result_key is not None else None,
        )
