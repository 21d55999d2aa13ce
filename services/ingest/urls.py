"""Images that a request names by their URL, fetched from where the settings allow it."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple

import httpx

from services.ingest.addresses import Address, as_address
from visionmesh.errors import Code, ConfigurationError, Refused, Reject
from visionmesh.settings.ingest import UrlSettings

AT_ONCE = 16
"""Fetches that go on; others wait for a place."""
OF_ONE_REQUEST = 4
"""Of these, those of one request: it leaves places to others."""
PATIENCE = timedelta(seconds=5)
"""For a place; who is refused then may come again."""
MAX_REDIRECTS = 3

_HEADERS = {"User-Agent": "visionmesh", "Accept": "image/*", "Accept-Encoding": "identity"}
_PORTS = {"https": 443, "http": 80}
_ENTRY = re.compile(r"(?:(?P<scheme>https?)://)?(?P<host>(?:\*\.)?[^/:*\s]+)(?::(?P<port>\d+))?/?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[list[str]]]
Count = Callable[[int], None]


class Allowed(NamedTuple):
    """One entry of the settings: ``[https://]example.org[:443]``, or ``*.example.org``."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, entry: str) -> Allowed:
        """Read an entry; raise `ConfigurationError` if it is none."""
        found = _ENTRY.fullmatch(entry.strip().lower())
        if found is None:
            raise ConfigurationError(
                Code.SETTINGS_INVALID,
                f"ingest.urls.hosts: {entry!r} is not a host such as example.org, *.example.org "
                "or http://example.org:8080.",
            )
        scheme = found["scheme"] or "https"
        return cls(scheme, found["host"], int(found["port"] or _PORTS[scheme]))

    def covers(self, url: httpx.URL) -> bool:
        port = url.port or _PORTS.get(url.scheme)
        name = url.host.lower().rstrip(".")
        below = self.host.startswith("*.") and name.endswith(self.host[1:])
        return (url.scheme, port) == (self.scheme, self.port) and (below or name == self.host)


class Urls:
    """Fetches images by HTTP from hosts that are allowed and whose addresses are public.

    Each address that a name has, and each that a redirect leads to, is looked at before anything
    is sent there, and the connection goes to the address that was looked at. Proxies of the
    environment are not used, and what is said of the content is not believed.

    Parameters
    ----------
    patience
        How long a fetch waits for a place, beside the time that it has itself.
    resolve
        Returns the addresses of a host; by default the system's resolver.
    transport
        What connects; by default httpx's own.
    """

    def __init__(
        self,
        *,
        settings: UrlSettings,
        max_bytes: int,
        patience: timedelta = PATIENCE,
        resolve: Resolve | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._allowed = tuple(Allowed.parse(entry) for entry in settings.hosts)
        self._timeout = settings.timeout
        self._max_bytes = max_bytes
        self._patience = patience
        self._resolve = resolve or _addresses
        self._places = asyncio.Semaphore(AT_ONCE)
        # Not a client, which keeps cookies; nor connections, which were made to another name.
        self._transport = transport or httpx.AsyncHTTPTransport(
            trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def close(self) -> None:
        await self._transport.aclose()

    async def fetch(self, url: str, *, count: Count) -> bytes:
        """Return what is at ``url``; ``count`` is told of every piece, and may raise.

        Raises
        ------
        Reject
            (url_refused) if it is not allowed, or nothing can be fetched there; (payload_too_large)
            if it is larger than an image may be.
        Refused
            (mesh_full) if no place becomes free, as others fetch too much.
        """
        async with self._place():
            return await self._in_time(url, count)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await self._places.acquire()
        except TimeoutError as error:
            raise Refused(
                Code.MESH_FULL, "Too many images are being fetched; try again."
            ) from error
        try:
            yield
        finally:
            self._places.release()

    async def _in_time(self, url: str, count: Count) -> bytes:
        seconds = self._timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(_parse(url), count)
        except TimeoutError as error:
            raise _refused(f"{_shown(url)} did not arrive within {seconds:g} s.") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise _refused(f"{_shown(url)} cannot be fetched: {why}.") from error

    async def _follow(self, url: httpx.URL, count: Count) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            address = await self._public_address(url)
            response = await self._transport.handle_async_request(self._request(url, address))
            try:
                if not response.has_redirect_location:
                    return await self._read(url, response, count)
                url = _parse(str(url.join(response.headers["Location"])))
            finally:
                await response.aclose()
        raise _refused(f"More than {MAX_REDIRECTS} redirects, the last to {_shown(str(url))}.")

    def _request(self, url: httpx.URL, address: str) -> httpx.Request:
        timeout = httpx.Timeout(self._timeout.total_seconds()).as_dict()
        return httpx.Request(
            "GET",
            url.copy_with(host=address, fragment=None),
            headers={"Host": url.netloc.decode("ascii"), **_HEADERS},
            extensions={"sni_hostname": url.raw_host.decode("ascii"), "timeout": timeout},
        )

    async def _public_address(self, url: httpx.URL) -> str:
        """Return an address of the URL's host, if all are public and it is allowed."""
        if not any(entry.covers(url) for entry in self._allowed):
            raise _refused(
                f"{_shown(str(url))} is not at a host from which this mesh fetches images; "
                "see ingest.urls.hosts in its settings."
            )
        try:
            addresses = await self._resolve(url.host, url.port or _PORTS[url.scheme])
        except OSError as error:
            raise _refused(f"The host {url.host!r} is not known: {error.strerror}.") from error
        if not addresses or not all(is_public(address) for address in addresses):
            raise _refused(f"The host {url.host!r} has an address that is not public.")
        return addresses[0]

    async def _read(self, url: httpx.URL, response: httpx.Response, count: Count) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise _refused(f"{_shown(str(url))} was answered with {response.status_code}.")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _refused(f"{_shown(str(url))} came compressed, which was not asked for.")
        body = bytearray()
        async for piece in response.aiter_raw():
            count(len(piece))
            body += piece
            if len(body) > self._max_bytes:
                raise Reject(
                    Code.PAYLOAD_TOO_LARGE,
                    f"{_shown(str(url))} is larger than the {self._max_bytes:,} bytes of an image.",
                )
        return bytes(body)


def is_public(text: str) -> bool:
    """Say whether an address belongs to the Internet, also one of IPv4 within one of IPv6."""
    address = as_address(text)
    return address is not None and all(
        one.is_global and not one.is_multicast for one in _unfolded(address)
    )


def _unfolded(address: Address) -> list[Address]:
    """Return the address, or those of IPv4 that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return [one for one in inner if one is not None] or [address]


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _refused(f"{_shown(url)} is no URL.") from error
    if parsed.scheme not in _PORTS or not parsed.host:
        raise _refused(f"{_shown(url)} is no URL of http or https.")
    if parsed.userinfo:
        raise _refused("A URL with a user name is not fetched.")
    return parsed


def _shown(url: str) -> str:
    longest = 120
    return repr(url if len(url) <= longest else url[:longest] + "…")


def _refused(why: str) -> Reject:
    return Reject(Code.URL_REFUSED, why)
