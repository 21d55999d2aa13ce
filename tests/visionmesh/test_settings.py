"""Settings that cannot be are told at once, by name."""

from __future__ import annotations

from typing import Any

import pytest

from visionmesh.errors import Code, ConfigurationError
from visionmesh.settings import Settings, load_settings


def load_with(setting: str, value: Any) -> Settings:
    return load_settings(None, **{setting: value})


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("redis_url", "foo"),
        ("redis_url", "http://localhost"),
        ("redis_url", "redis://"),
        ("nats_url", ""),
        ("nats_url", "nats://here:there"),
        ("nats_url", "nats://:4222"),
        ("nats_url", "nats://a:4222,b:4222"),
    ],
)
def test_an_address_that_is_none_is_named(setting: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"setting {setting}: ") as raised:
        load_with(setting, url)
    assert raised.value.code is Code.SETTINGS_INVALID


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("redis_url", "redis://user:secret@10.0.0.5:6379/0"),
        ("redis_url", "unix:///run/valkey.sock"),
        ("nats_url", "nats://a:4222,tls://b:4222"),
        ("nats_url", "nats://[::1]:4222"),
    ],
)
def test_addresses_of_all_kinds_are_taken(setting: str, url: str) -> None:
    assert getattr(load_with(setting, url), setting) == url


@pytest.mark.parametrize("host", ["", "[::1]", "127.0.0.1:1883"])
def test_cameras_come_to_a_host_and_nothing_else(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"setting ingest\.mqtt\.host: .*is no host"):
        load_with("ingest", {"mqtt": {"host": host}})


@pytest.mark.parametrize("stage", ["preprocess", "postprocess"])
def test_a_stage_that_uses_a_gpu_names_one(stage: str) -> None:
    for device in ("cpu", "cuda", "cuda:1", "cuda:MIG-5c2d", "emulated"):
        assert getattr(load_with(stage, {"device": device}), stage).device == device
    for device in ("gpu", "cuda:", "cuda:x", "cuda:-1"):
        told = rf"setting {stage}\.device: .*'{device}' is no device"
        with pytest.raises(ConfigurationError, match=told):
            load_with(stage, {"device": device})


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("infer", {"devices": "cuda:0"}, r"infer\.devices: this must be a list"),
        ("infer", {"port": 1, "prot": 2}, r"infer\.prot: this key is not known"),
    ],
)
def test_what_is_not_as_it_must_be_is_told_in_words_of_yaml(
    setting: str, value: Any, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"setting {told}"):
        load_with(setting, value)
