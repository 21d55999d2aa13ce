"""Served applications, and clients of both versions of HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from tests.services.ingest.limits.served import SETTINGS, Served, serving

HASTY = SETTINGS.model_copy(update={"body_timeout": timedelta(milliseconds=300)})


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(SETTINGS) as found:
        yield found


@pytest.fixture
async def hasty() -> AsyncIterator[Served]:
    async with serving(HASTY) as found:
        yield found


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
async def client(
    served: Served, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    second = request.param == "HTTP/2"
    async with httpx.AsyncClient(
        base_url=served.url, http1=not second, http2=second, timeout=10
    ) as found:
        yield found
