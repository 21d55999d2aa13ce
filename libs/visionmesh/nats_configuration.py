"""The configuration of the embedded NATS server."""

from __future__ import annotations

import json
from pathlib import Path

_MESH = "UDJQZJ5HUMV7K5ZNYXVSULT32NLTP37XSWWXJ4SHTM2ZOFVVTK67UNFK"
_CAMERA = "UCE6ROKRRWJCPFEJXPPOE3Z5YZDNSIOYTIK27PJ2HYFNNFJSRI62AI42"

_SERVER = """\
listen: {listen}
ports_file_dir: {store}
# A stream on disk takes less than 32 MiB per message, its own few bytes included.
max_payload: 33500000
max_pending: 256MB
jetstream {{
  store_dir: {store}
  # Ceilings only: each stream has bounds of its own.
  max_file_store: {max_file_bytes}
  max_memory_store: {max_memory_bytes}
  # What a power cut may cost; a mere crash of the server costs nothing.
  sync_interval: 10s
}}
"""

_GATEWAY = """\
# Who comes by NATS may do everything, as without users; who comes by MQTT may send frames only.
# Nobody can say that he is one of the two: they are hashes of the words "mesh" and "camera", to
# which nobody has a private key.
no_auth_user: {mesh}
authorization {{
  users: [
    {{ nkey: {mesh}, allowed_connection_types: ["STANDARD"] }}
    {{
      nkey: {camera}
      allowed_connection_types: ["MQTT"]
      permissions: {{ publish: ["vm.mqtt.>"], subscribe: {{ deny: [">"] }} }}
    }}
  ]
}}
mqtt {{
  listen: {listen}
  no_auth_user: {camera}
}}
"""


def nats_configuration(
    *, listen: str, store: Path, max_file_bytes: int, max_memory_bytes: int, mqtt: str | None
) -> str:
    """Return the text of the file; ``listen`` and ``mqtt`` are ``host:port``."""
    # JSON strings are strings of this configuration language too.
    text = _SERVER.format(
        listen=json.dumps(listen),
        store=json.dumps(str(store)),
        max_file_bytes=max_file_bytes,
        max_memory_bytes=max_memory_bytes,
    )
    if mqtt is None:
        return text
    return text + _GATEWAY.format(listen=json.dumps(mqtt), mesh=_MESH, camera=_CAMERA)
