"""The one way in which stages open an image that a record names: formats by name, no link, pipe or device.

Pillow knows dozens of formats and hands some of them to other programs; only those of `FORMATS` are ever tried.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from meddap_monai import store
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.limits import DEFAULT_LIMITS, Limits
from meddap_monai.images.reading.plain import sniff
from meddap_monai.images.reading.raster import FORMATS, Raster, open_raster


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
    with _opened(path, folder, limits) as raster:
        return Image.fromarray(raster.picture(0))


def image_size(path: Path | str, *, folder: Path | str | None = None) -> tuple[int, int]:
    """Return (height, width) of the picture `open_image` returns, without decoding it; errors as there."""
    with _opened(path, folder, DEFAULT_LIMITS) as raster:
        return raster.size


def image_text(path: Path | str, *, folder: Path | str | None = None) -> dict[str, str]:
    """Return the text of a PNG, keyword -> text; empty for another format; errors as for `open_image`."""
    with _opened(path, folder, DEFAULT_LIMITS) as raster:
        return dict(getattr(raster.image, "text", {}))


@contextlib.contextmanager
def _opened(path: Path | str, folder: Path | str | None, limits: Limits) -> Iterator[Raster]:
    try:
        if store.links_out(path, folder):
            raise UnreadableImage(
                f"{path}: is a link that leaves the folder of its records; copy the file there, or set "
                f"{store.ALLOW_LINKS}=1 if the link can be trusted"
            )
        if sniff(path, limits) != "raster":
            raise UnreadableImage(f"{path}: expected {', '.join(FORMATS)}")
        with open_raster(path, limits) as raster:
            if len(raster.pages) != 1:
                raise UnreadableImage(f"{path}: holds {len(raster.pages)} pictures, expected one")
            yield raster
    except UnreadableImage as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UnreadableImage(f"{path}: cannot be read as an image: {reason}") from error
