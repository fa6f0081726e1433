"""The one way in which stages open an image that a record names: formats by name, no link, pipe or device.

Pillow knows dozens of formats and hands some of them to other programs; only those of `FORMATS` are ever tried.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from meddap_monai import store
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.limits import DEFAULT_LIMITS, Limits, check_frame_size, open_regular

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")


def open_image(path: Path | str, *, folder: Path | str | None = None, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Return the one picture of a PNG, JPEG, TIFF or BMP file, decoded and upright.

    Args:
        path: of the file; its content decides, not its suffix.
        folder: of the records that name it; a link that leaves it is refused (`store.links_out`).
        limits: ceilings checked before memory is taken.

    Returns:
        A picture of mode L or RGB, 8 bits, the same that `read_plain` gives.

    Raises:
        UnreadableImage: missing, no regular file, a link that leaves the folder, another format, too large, damaged.
    """
    with _header(path, folder, limits) as image:
        image.load()
        return image.convert("L" if image.mode in ("1", "L") else "RGB")


def image_size(path: Path | str, *, folder: Path | str | None = None) -> tuple[int, int]:
    """Return (height, width) of the picture `open_image` returns, without decoding it; errors as there."""
    with _header(path, folder, DEFAULT_LIMITS) as image:
        return image.height, image.width


@contextlib.contextmanager
def _header(path: Path | str, folder: Path | str | None, limits: Limits) -> Iterator[Image.Image]:
    if store.links_out(path, folder):
        raise UnreadableImage(
            f"{path}: is a link that leaves the folder of its records; copy the file there, or set "
            f"{store.ALLOW_LINKS}=1 if the link can be trusted"
        )
    stream, _ = open_regular(path, limits)
    try:
        with stream, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream, formats=FORMATS) as image:
                check_frame_size(path, image.height, image.width, limits)
                yield image
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"{path}: is not an image, expected {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"{path}: has too many pixels, expected at most {limits.frame_pixels:,}") from error
    except MemoryError as error:
        raise UnreadableImage(f"{path}: asks for more memory than there is") from error
    except Exception as error:
        raise UnreadableImage(f"{path}: cannot be read as an image ({error}); the file is damaged") from error
