"""What can be seen of a running mesh: spans of every image, and metrics of every service.

The modules are imported by name: `context` and `spans` need nothing but Python, so that the
client can use them; `tracing`, `otlp` and `metrics` need the ``mesh`` extra.
"""
