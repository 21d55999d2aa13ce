"""From where images are fetched, and from where never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.ingest.urls import AT_ONCE, Allowed, Urls, is_public
from tests.polling import until
from tests.services.ingest.web import LIMIT, PUBLIC, ToThisHost, Web, serving
from visionmesh.errors import Code, ConfigurationError, Refused, Reject
from visionmesh.settings.ingest import UrlSettings


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as found:
        yield found


@pytest.fixture
async def urls(web: Web) -> AsyncIterator[Urls]:
    settings = UrlSettings(
        hosts=("images.example.org", "*.example.net", "http://plain.example.org:8080"),
        timeout=timedelta(seconds=1),
    )
    found = Urls(settings=settings, max_bytes=LIMIT, resolve=web.resolve, transport=ToThisHost(web))
    yield found
    await found.close()


def ignore(nbytes: int) -> None:
    assert nbytes >= 0


async def refused(urls: Urls, url: str) -> str:
    with pytest.raises(Reject) as caught:
        await urls.fetch(url, count=ignore)
    assert caught.value.code is Code.URL_REFUSED
    return caught.value.message


def to(url: str) -> str:
    """Return a URL that redirects to ``url``."""
    return f"https://images.example.org/to/{url.encode().hex()}"


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.org/image",
        "https://IMAGES.example.org:443/image",
        "https://a.b.example.net/image",
        "http://plain.example.org:8080/image",
        to("/image"),
        to("https://a.example.net/image"),
    ],
)
async def test_an_image_is_fetched_where_that_is_allowed(urls: Urls, web: Web, url: str) -> None:
    counted: list[int] = []
    assert await urls.fetch(url, count=counted.append) == b"i" * 10
    assert sum(counted) == 10
    assert web.asked[-1].endswith("/image")
    assert not web.asked[-1].startswith(("127.", PUBLIC))
    assert all(b"cookie" not in headers for headers in web.headers)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/image",
        "https://example.net/image",
        "https://images.example.org.evil.com/image",
        "https://evilexample.net/image",
        "http://images.example.org/image",
        "https://images.example.org:8443/image",
        "https://plain.example.org/image",
        "https://user@images.example.org/image",
        "https://images.example.org@evil.com/image",
        "file:///etc/passwd",
        "gopher://images.example.org/",
        "//images.example.org/image",
        "images.example.org",
        "https://",
        "https://[::1",
        "\x00",
        "",
    ],
)
async def test_nothing_is_sent_to_where_it_is_not_allowed(urls: Urls, web: Web, url: str) -> None:
    await refused(urls, url)
    assert web.asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["169.254.169.254"],
        ["192.168.0.1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["255.255.255.255"],
        ["::1"],
        ["::"],
        ["fe80::1%eth0"],
        ["fd00::1"],
        ["ff02::1"],
        ["::ffff:127.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["2001:0:4136:e378:8000:63bf:80ff:fffe"],
        [PUBLIC, "10.0.0.1"],
        [],
    ],
)
async def test_a_name_with_an_address_that_is_not_public_is_refused(
    urls: Urls, web: Web, addresses: list[str]
) -> None:
    web.resolved["images.example.org"] = addresses
    await refused(urls, "https://images.example.org/image")
    assert web.asked == []


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/image",
        "https://evil.com/image",
        "http://images.example.org/image",
        "file:///etc/passwd",
        "https://inside.example.net/image",
    ],
)
async def test_a_redirect_to_where_nothing_is_fetched_is_not_followed(
    urls: Urls, web: Web, url: str
) -> None:
    web.resolved["inside.example.net"] = ["10.0.0.1"]
    await refused(urls, to(url))
    assert len(web.asked) == 1


async def test_redirects_end(urls: Urls, web: Web) -> None:
    url = "/image"
    for _ in range(4):
        url = to(url)
    assert "redirects" in await refused(urls, url)


@pytest.mark.parametrize("path", ["nothing", "gzip", "slow"])
async def test_what_is_no_answer_in_time_is_refused(urls: Urls, path: str) -> None:
    await refused(urls, f"https://images.example.org/{path}")


async def test_who_gets_no_place_is_told_so_and_no_host_is_blamed(web: Web) -> None:
    urls = Urls(
        settings=UrlSettings(hosts=("images.example.org",)),
        max_bytes=LIMIT,
        patience=timedelta(milliseconds=100),
        resolve=web.resolve,
        transport=ToThisHost(web),
    )
    slow = "https://images.example.org/slow"
    others = [asyncio.create_task(urls.fetch(slow, count=ignore)) for _ in range(AT_ONCE)]

    async def all_places_taken() -> bool:
        return len(web.asked) == AT_ONCE

    await until(all_places_taken)
    with pytest.raises(Refused) as caught:
        await urls.fetch("https://images.example.org/image", count=ignore)
    assert caught.value.code is Code.MESH_FULL
    web.released.set()
    assert len(await asyncio.gather(*others)) == AT_ONCE
    assert await urls.fetch("https://images.example.org/image", count=ignore)
    await urls.close()


async def test_an_image_that_is_too_large_is_not_read_on(urls: Urls) -> None:
    assert len(await urls.fetch("https://images.example.org/brim", count=ignore)) == LIMIT
    with pytest.raises(Reject) as caught:
        await urls.fetch("https://images.example.org/large", count=ignore)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE


async def test_this_host_is_not_reached_by_a_name_or_a_number() -> None:
    hosts = ("localhost", "127.0.0.1", "0x7f.1", "2130706433", "0")
    urls = Urls(settings=UrlSettings(hosts=hosts), max_bytes=LIMIT)
    for host in hosts:
        assert "not public" in await refused(urls, f"https://{host}/image")
    await urls.close()


@pytest.mark.parametrize("entry", ["", "https://", "a b", "ftp://example.org", "example.org/path"])
def test_an_entry_that_names_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a host"):
        Allowed.parse(entry)
