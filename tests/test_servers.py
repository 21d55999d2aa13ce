from __future__ import annotations

from pathlib import Path

import nats
import pytest
from nats.js.errors import ServiceUnavailableError

from tests.servers import PlainNatsServer


async def test_a_plain_server_has_no_jetstream(tmp_path: Path) -> None:
    async with PlainNatsServer(store=tmp_path) as server:
        client = await nats.connect(server.url)
        with pytest.raises(ServiceUnavailableError):
            await client.jetstream().account_info()
        await client.close()
