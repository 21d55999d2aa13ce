"""Which addresses and names are of this host."""

from __future__ import annotations

import pytest

from services.ingest.addresses import as_address, is_loopback


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "cam.localhost"]
)
def test_this_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ".", "0.0.0.0", "::", "10.0.0.5", "::ffff:10.0.0.5", "mylocalhost", "localhost.example"],
)
def test_elsewhere(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_is_no_address() -> None:
    assert as_address("localhost") is None
    assert str(as_address("10.0.0.5")) == "10.0.0.5"
