"""A camera by MQTT 3.1.1: publishes the files of a folder and tells what the server confirmed.

Arguments: host, port, topic, quality of service, folder. What it prints is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

PATIENCE = 60.0
IN_FLIGHT = 20


def main() -> None:
    host, port, topic, quality, folder = sys.argv[1:]
    lost: list[str] = []
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=Path(folder).name,
        protocol=MQTTProtocolVersion.MQTTv311,
    )
    client.reconnect_delay_set(0.1, 0.5)
    client.max_inflight_messages_set(IN_FLIGHT)

    def disconnected(_: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        lost.append(str(reason))

    client.on_disconnect = disconnected
    client.connect(host, int(port))
    client.loop_start()
    sent = [
        client.publish(topic, file.read_bytes(), qos=int(quality))
        for file in sorted(Path(folder).iterdir())
    ]
    deadline = time.monotonic() + PATIENCE
    for message in sent:
        message.wait_for_publish(max(deadline - time.monotonic(), 0.001))
    confirmed = sum(message.is_published() for message in sent)
    interrupted = len(lost)
    client.disconnect()
    client.loop_stop()
    print(json.dumps({"confirmed": confirmed, "interrupted": interrupted}))  # noqa: T201


if __name__ == "__main__":
    main()
