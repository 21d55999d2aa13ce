"""A picture of every kind that is decoded."""

from __future__ import annotations

import numpy as np

from tests.services.preprocess.pictures import encode, photo, png16, scene, tiff16, turned

PHOTO = encode(photo(), "JPEG", quality=95)
_WIDE = scene(120, 90).astype(np.uint16) * np.uint16(257)

ALL_KINDS = {
    "jpeg": PHOTO,
    "progressive": encode(photo(), "JPEG", progressive=True),
    "grey jpeg": encode(photo(mode="L"), "JPEG"),
    "cmyk jpeg": encode(photo(mode="CMYK"), "JPEG"),
    "rgb jpeg": encode(photo(), "JPEG", keep_rgb=True),
    "turned jpeg": turned(photo(), "JPEG", 6),
    "large jpeg": encode(photo(700, 500), "JPEG"),
    "png": encode(photo(), "PNG"),
    "palette png": encode(photo(mode="P"), "PNG"),
    "alpha png": encode(photo(mode="RGBA"), "PNG"),
    "grey alpha png": encode(photo(mode="LA"), "PNG"),
    "16 bit png": png16(_WIDE),
    "webp": turned(photo(), "WEBP", 8),
    "bmp": encode(photo(), "BMP"),
    "16 bit tiff": tiff16(_WIDE, orientation=5),
}
