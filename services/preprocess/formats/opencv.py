"""What BMP and TIFF share: OpenCV unpacks them, silently, and every failure is a `Reject`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from services.preprocess.formats.header import Data, broken

# The error result tells what is wrong with a picture; OpenCV would tell stderr as well.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def imdecode(name: str, data: Data, flags: int) -> NDArray[Any]:
    """Return ``(H, W)`` or ``(H, W, C)`` as stored, in OpenCV's order (BGR), not turned."""
    try:
        samples: NDArray[Any] | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        raise broken(name, error.err) from error
    if samples is None:
        raise broken(name, "the decoder gave up")
    return samples
