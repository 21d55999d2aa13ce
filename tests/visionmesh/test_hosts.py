"""Hosts, with a port and without."""

from __future__ import annotations

import pytest

from visionmesh.hosts import require_host, with_port


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", "127.0.0.1:80"), ("cam-net", "cam-net:80"), ("::1", "[::1]:80")],
)
def test_an_address_of_ipv6_has_brackets_before_a_port(host: str, told: str) -> None:
    assert with_port(host, 80) == told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "fe80::1%eth0", "localhost", "a.example.org"])
def test_addresses_and_names_are_hosts(host: str) -> None:
    assert require_host(host) == host


@pytest.mark.parametrize("host", ["", "127.0.0.1:1883", "[::1]", "a b", "mqtt://here", "here\n"])
def test_what_is_no_host_is_named(host: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        require_host(host)
