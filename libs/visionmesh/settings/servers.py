"""The addresses of servers, as settings and commands take them."""

from __future__ import annotations

from urllib.parse import urlsplit

_SCHEMES = {
    "nats_url": ("nats", "tls", "ws", "wss"),
    "redis_url": ("redis", "rediss", "unix"),
}


def require_server(setting: str, urls: str) -> str:
    """Return ``urls``, one or several with commas between; raise `ValueError` if one is none."""
    schemes = _SCHEMES[setting]
    for url in urls.split(","):
        if not _is_address(url.strip(), schemes):
            wanted = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"{url!r} is no address of a server; one begins with {wanted}")
    return urls


def _is_address(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port tells whether it is a number.
        whole = parts.port is None or parts.hostname is not None
    except ValueError:
        return False
    return whole and parts.scheme in schemes and bool(parts.hostname or parts.path)
