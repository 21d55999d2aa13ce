"""A server that only tests need."""

from __future__ import annotations

from pathlib import Path

from visionmesh.embedded import NatsServer


class PlainNatsServer(NatsServer):
    """A NATS server without JetStream."""

    def _command(self) -> list[str]:
        *command, path = super()._command()
        configuration = Path(path)
        before, _, _ = configuration.read_text().partition("jetstream {")
        configuration.write_text(before)
        return [*command, path]
