"""The spans of batches: each image's own run, and the batch that links to all of its images."""

from __future__ import annotations

from services.infer.batcher import BatchedOutput
from visionmesh.telemetry.spans import AttributeValue, Key, SpanName
from visionmesh.trail import Trail


class BatchSpans:
    """Collects the images of each batch as they come back."""

    def __init__(self) -> None:
        self._open: dict[int, list[tuple[Trail, BatchedOutput]]] = {}

    def record(self, trail: Trail, output: BatchedOutput) -> None:
        """Record an image's run; with the last one of a batch the batch's span, too."""
        batch = output.batch
        attributes: dict[str, AttributeValue] = {
            Key.BATCH_COUNT: batch.size,
            Key.ENGINE: batch.engine,
        }
        trail.step(SpanName.ENGINE, batch.started_ns, batch.finished_ns, attributes=attributes)
        members = self._open.setdefault(batch.id, [])
        members.append((trail, output))
        if len(members) < batch.answered:
            return
        del self._open[batch.id]
        links = [trail.link for trail, _ in members if trail.link is not None]
        # The first image's trace shows the batch; the links lead to the others.
        seen = next((trail for trail, _ in members if trail.sampled), None)
        if seen is not None:
            waiting_since = min(output.enqueued_ns for _, output in members)
            seen.step(
                SpanName.BATCH,
                waiting_since,
                batch.finished_ns,
                attributes=attributes,
                links=links,
            )
