"""Addresses that something listens on: a host, and a port of it."""

from __future__ import annotations

import ipaddress
import re

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)


def with_port(host: str, port: int) -> str:
    """Return ``host:port``; an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_host(host: str) -> str:
    """Return ``host``; raise `ValueError` if it is neither an IP address nor a name."""
    if not _NAME.fullmatch(host):
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ValueError(
                f"{host!r} is no host; name one without a port, such as 127.0.0.1 or ::1"
            ) from error
    return host
