"""Where somebody is: on this host, or elsewhere."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def as_address(host: str) -> Address | None:
    """Return the IP address that ``host`` is; `None`: it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is an address or a name that leads back to the very host it is used on.

    An IPv4 address within one of IPv6 (``::ffff:127.0.0.1``) is what it stands for; names are
    those of RFC 6761: ``localhost``, and all below it.
    """
    address = as_address(host)
    if address is None:
        return f".{host}".endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
