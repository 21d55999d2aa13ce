"""API keys: what they look like, what they are good for, and how often."""

from visionmesh.keys.rate import Rate, parse_rate
from visionmesh.keys.record import KeyRecord, Right, issue

__all__ = ["KeyRecord", "Rate", "Right", "issue", "parse_rate"]
