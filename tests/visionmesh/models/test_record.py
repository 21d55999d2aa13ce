from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, Refused
from visionmesh.models.record import ModelRecord, VersionRecord, feature_digest
from visionmesh.models.spec import ModelSpec


def record_of(*versions: int, **more: Any) -> ModelRecord:
    spec = ModelSpec.model_validate(
        {
            "name": "trees",
            "task": "classification",
            "input": {"width": 6, "height": 8},
            "output": {"decoder": "softmax"},
            **more,
        }
    )
    version = VersionRecord(
        sha256="0" * 64,
        size_bytes=1,
        digest=feature_digest("0" * 64, spec.output),
        pushed_at=datetime.now(UTC),
        batch=None,
        outputs=(TensorMeta(name="scores", dtype="float32", shape=(4,)),),
    )
    return ModelRecord(spec=spec, versions=dict.fromkeys(versions, version))


@given(key=st.text())
def test_without_weights_the_newest_version_serves(key: str) -> None:
    assert record_of(1, 10, 9).choose(key) == 10


@given(key=st.text())
def test_a_key_always_gets_the_same_version(key: str) -> None:
    weighed = record_of(1, 2, 3, traffic={1: 1, 2: 1, 3: 1})
    assert weighed.choose(key) == weighed.choose(key)
    assert record_of(1, 2, traffic={2: 0.1}).choose(key) == 2
    assert record_of(1, 2, traffic={1: 5, 2: 0}).choose(key) == 1


def test_shares_follow_the_weights() -> None:
    record = record_of(1, 2, 3, traffic={1: 90, 3: 10})

    shares = Counter(record.choose(f"image-{number}") for number in range(20_000))

    # Six standard deviations of a binomial share: sqrt(0.9 * 0.1 / 20000) = 0.0021.
    assert shares[1] / 20_000 == pytest.approx(0.9, abs=0.013)
    assert shares[2] == 0
    assert record.served == (1, 3)


def test_weights_of_versions_that_are_gone_do_not_count() -> None:
    assert record_of(4, 5, traffic={3: 1}).choose("any") == 5


def test_a_version_that_was_not_pushed_is_refused() -> None:
    with pytest.raises(Refused, match="no version 3; it has: 1, 2") as raised:
        record_of(1, 2).version(3)
    assert raised.value.code is Code.UNKNOWN_VERSION


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"input": {"width": 7, "height": 8}}, {"preprocess"}),
        ({"input": {"width": 6, "height": 8, "resize": "crop"}}, {"preprocess"}),
        ({"output": {"decoder": "softmax", "top_k": 3}}, {"answer"}),
        ({"output": {"decoder": "softmax", "temperature": 2}}, {"answer", "feature"}),
        ({"labels": ["ash"]}, {"answer"}),
        ({"batching": {"max_size": 4}}, set()),
    ],
)
def test_digests_change_with_what_they_stand_for(
    change: dict[str, object], differing: set[str]
) -> None:
    def digests(record: ModelRecord) -> dict[str, str]:
        return {
            "preprocess": record.preprocess_digest,
            "answer": record.answer_digest,
            "feature": record.version(1).digest,
        }

    old, new = digests(record_of(1)), digests(record_of(1, **change))

    assert {name for name in old if old[name] != new[name]} == differing


def test_a_record_survives_its_way_through_json() -> None:
    record = record_of(1, 2, traffic={1: 1}, batching={"max_delay": "5ms"})
    assert ModelRecord.model_validate_json(record.model_dump_json()) == record
