from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import describe
from visionmesh.contracts import TensorMeta
from visionmesh.errors import Code, Refused
from visionmesh.models.record import ModelRecord, VersionRecord


def record_of(*versions: int, **more: Any) -> ModelRecord:
    spec = describe(**more)
    version = VersionRecord(
        sha256="0" * 64,
        size_bytes=1,
        pushed_at=datetime.now(UTC),
        input=spec.input,
        output=spec.output,
        labels=spec.labels,
        batch=None,
        outputs=(TensorMeta(name="scores", dtype="float32", shape=(4,)),),
    )
    return ModelRecord(spec=spec, versions=dict.fromkeys(versions, version))


@given(key=st.text())
def test_without_weights_the_newest_version_serves(key: str) -> None:
    assert record_of(1, 10, 9).choose(key, "cam") == 10


@given(key=st.text())
def test_a_key_always_gets_the_same_version(key: str) -> None:
    weighed = record_of(1, 2, 3, traffic={1: 1, 2: 1, 3: 1})
    assert weighed.choose(key, "a") == weighed.choose(key, "b")
    assert record_of(1, 2, traffic={2: 0.1}).choose(key, "a") == 2
    assert record_of(1, 2, traffic={1: 5, 2: 0}).choose(key, "a") == 1


def test_shares_follow_the_weights() -> None:
    record = record_of(1, 2, 3, traffic={1: 90, 3: 10})

    shares = Counter(record.choose(f"image-{number}", "cam") for number in range(20_000))

    # Six standard deviations of a binomial share: sqrt(0.9 * 0.1 / 20000) = 0.0021.
    assert shares[1] / 20_000 == pytest.approx(0.9, abs=0.013)
    assert shares[2] == 0
    assert record.shares == {1: 90, 3: 10}


@given(id=st.text(), other=st.text())
def test_a_source_may_stay_with_one_version(id: str, other: str) -> None:
    record = record_of(1, 2, traffic={1: 1, 2: 1}).steered(sticky="source")
    assert record.choose(id, "cam1") == record.choose(other, "cam1")
    assert {record.choose(id, f"cam{number}") for number in range(64)} == {1, 2}


def test_weights_of_versions_that_are_gone_do_not_count() -> None:
    assert record_of(4, 5, traffic={3: 1}).choose("any", "cam") == 5


@pytest.mark.parametrize(
    ("ready", "shares"),
    [
        ({1, 2, 3}, {2: 75, 3: 25}),
        ({1, 3}, {3: 25}),
        ({1}, {1: 1}),  # what answered before
        ({4}, {4: 1}),  # whatever can answer at all
        (set(), {2: 75, 3: 25}),  # images wait for what is told
    ],
)
def test_a_version_that_is_not_ready_gets_no_traffic(
    ready: set[int], shares: dict[int, float]
) -> None:
    record = record_of(1, 2, 3, 4, traffic={1: 1}).steered(weights={2: 75, 3: 25})
    assert record.shares_among(ready) == shares
    assert record.choose("id", "cam", ready=ready) in shares


def test_a_rollback_restores_what_answered_before_and_a_second_one_undoes_it() -> None:
    record = record_of(1, 2).steered(weights={1: 90, 2: 10}).steered(weights={2: 1})
    back = record.rolled_back()
    assert back.shares == {1: 90, 2: 10}
    assert back.rolled_back().shares == {2: 1}


def test_a_rollback_leads_from_the_newest_to_the_one_before_it() -> None:
    record = record_of(1, 2).after(record_of(1))
    assert record.shares == {2: 1}
    assert record.rolled_back().shares == {1: 1}


def test_a_rollback_ends_a_shadow_that_answers_then() -> None:
    record = record_of(1, 2).steered(weights={1: 1}).steered(shadow=2)
    assert record.wanted == (1, 2)
    back = record.rolled_back()
    assert (back.shares, back.traffic.shadow) == ({2: 1}, None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weights": {1: 1, 7: 1}}, Code.UNKNOWN_VERSION),
        ({"shadow": 7}, Code.UNKNOWN_VERSION),
        ({"weights": {1: 0}}, Code.INVALID_TRAFFIC),
        ({"shadow": 2}, Code.INVALID_TRAFFIC),
    ],
)
def test_traffic_that_cannot_be_is_refused(changes: dict[str, object], code: Code) -> None:
    with pytest.raises(Refused) as raised:
        record_of(1, 2).steered(**changes)
    assert raised.value.code is code


def test_without_a_version_before_there_is_no_rollback() -> None:
    with pytest.raises(Refused, match="No other version of 'trees' has answered before"):
        record_of(1, 2).rolled_back()


def test_a_record_of_an_older_release_keeps_the_weights_of_its_folder() -> None:
    values = record_of(1, 2, traffic={1: 3}).model_dump(mode="json", exclude={"traffic", "card"})
    assert ModelRecord.model_validate(values).shares == {1: 3}


def test_a_version_that_was_not_pushed_is_refused() -> None:
    with pytest.raises(Refused, match="no version 3; it has: 1, 2") as raised:
        record_of(1, 2).version(3)
    assert raised.value.code is Code.UNKNOWN_VERSION


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"input": {"width": 7, "height": 8}}, {"pixels"}),
        ({"input": {"width": 6, "height": 8, "resize": "crop"}}, {"pixels"}),
        ({"output": {"decoder": "softmax", "top_k": 3}}, {"answer"}),
        ({"output": {"decoder": "softmax", "temperature": 2}}, {"answer", "features"}),
        ({"labels": ["ash", "elm"]}, {"answer"}),
        ({"labels": ["ash"]}, {"answer", "features"}),
        ({"batching": {"max_size": 4}}, set()),
    ],
)
def test_digests_change_with_what_they_stand_for(
    change: dict[str, object], differing: set[str]
) -> None:
    def digests(record: ModelRecord) -> dict[str, str]:
        version = record.version(1)
        return {
            "pixels": version.pixels_digest,
            "answer": version.answer_digest,
            "features": version.features_digest,
        }

    usual: dict[str, object] = {"labels": ["ash", "birch"]}
    old, new = digests(record_of(1, **usual)), digests(record_of(1, **(usual | change)))

    assert {name for name in old if old[name] != new[name]} == differing


def test_an_unloaded_model_keeps_the_versions_that_answer() -> None:
    record = record_of(1, 2).model_copy(update={"parked": True})
    assert record.wanted == ()
    assert list(record.without(1).versions) == [2]
    with pytest.raises(Refused):
        record.without(2)


def test_a_record_survives_its_way_through_json() -> None:
    record = record_of(1, 2, traffic={1: 1}, batching={"max_delay": "5ms"})
    assert ModelRecord.model_validate_json(record.model_dump_json()) == record
