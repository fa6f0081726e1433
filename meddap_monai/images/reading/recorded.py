"""The one way in which a stage opens the image of a record: as `open_image` does, and only if nothing changed in it.

A record carries the SHA-256 of its pixels. It is compared wherever the image is decoded anyway, so that an image that
was exchanged after indexing (a test image by a training image, say) is never used under the old record.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from meddap_monai.core.records import pixel_hash
from meddap_monai.errors import ChangedImage
from meddap_monai.images.reading.opening import open_image

CHECK_PIXELS = "MEDDAP_CHECK_PIXELS"
"""Environment variable; 0 turns the comparison off, in this process and in its workers."""


def open_recorded(record: Mapping[str, Any]) -> Image.Image:
    """Return the picture of a record, mode L or RGB.

    Args:
        record: with an absolute ``image``; without ``sha256`` nothing is compared.

    Raises:
        UnreadableImage: see `open_image`.
        ChangedImage: the pixels are not those of ``sha256``.
    """
    picture = open_image(record["image"])
    wanted = record.get("sha256")
    if wanted and os.environ.get(CHECK_PIXELS) != "0":
        found = pixel_hash(np.asarray(picture))
        if found != wanted:
            raise ChangedImage(
                f"{record['image']}: its pixels changed since its record {record.get('id', '')!r} was written (SHA-256 "
                f"{found[:12]}..., expected {wanted[:12]}...); run the stage that wrote it again, or set "
                f"{CHECK_PIXELS}=0 if the change is meant"
            )
    return picture
