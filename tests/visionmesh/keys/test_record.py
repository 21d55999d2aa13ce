"""What a key looks like, what is kept of it, and what it is good for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from visionmesh.keys import KeyRecord, Rate, Right, issue, parse_rate
from visionmesh.keys.record import id_in


def test_a_key_is_told_by_its_hash_and_is_not_kept() -> None:
    key, record = issue(name="line")
    assert id_in(key) == record.id
    assert record.is_of(key)
    assert not record.is_of(key[:-1] + ("A" if key[-1] != "A" else "B"))
    assert key.rpartition("_")[2] not in record.model_dump_json()
    assert issue(name="line")[0] != key


@pytest.mark.parametrize("text", ["", "vmk_", "vmk_12345678_" + "x" * 42, "sk-123", "é" * 56])
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert id_in(text) is None


def test_a_key_ends_when_it_expires_or_is_revoked() -> None:
    now = datetime.now(UTC)
    _, record = issue(name="line", expires=now + timedelta(hours=1))
    assert record.fault() is None
    gone = record.model_copy(update={"expires": now - timedelta(seconds=1)}).fault()
    assert gone is not None
    assert gone.startswith("expired at 20")
    assert record.model_copy(update={"revoked": now}).fault() == "was revoked"


def test_patterns_name_models() -> None:
    _, record = issue(name="line", models=["board-*", "cats"])
    assert record.covers("board-defects")
    assert record.covers("cats")
    assert not record.covers("dogs")
    assert not record.covers("*")
    assert issue(name="all")[1].covers("*")
    assert not issue(name="one letter", models=("?", "[!x]*"))[1].covers("*")


def test_a_record_survives_its_json() -> None:
    _, record = issue(name="line", rights=[Right.ADMIN], rate="100/s")
    assert KeyRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1.5/s", "100/w", "100 / s", "9e9/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)
    with pytest.raises(ValidationError):
        issue(name="line", rate=text)


def test_rates_are_images_per_time() -> None:
    assert parse_rate("5000/m") == Rate(5000, timedelta(minutes=1))
