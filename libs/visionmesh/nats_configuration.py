"""The configuration of the embedded NATS server."""

from __future__ import annotations

import json
from pathlib import Path

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
no_auth_user: mesh
authorization {{
  users: [
    {{ user: mesh, password: mesh, allowed_connection_types: ["STANDARD"] }}
    {{
      user: camera
      password: camera
      allowed_connection_types: ["MQTT"]
      permissions: {{ publish: ["vm.mqtt.>"], subscribe: {{ deny: [">"] }} }}
    }}
  ]
}}
mqtt {{
  listen: {listen}
  no_auth_user: camera
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
    return text if mqtt is None else text + _GATEWAY.format(listen=json.dumps(mqtt))
