"""What was computed before: whole answers, and features from which other answers can be made."""

from visionmesh.cache.cache import Cache, Found, Outcome
from visionmesh.cache.keys import features_key, result_key

__all__ = ["Cache", "Found", "Outcome", "features_key", "result_key"]
