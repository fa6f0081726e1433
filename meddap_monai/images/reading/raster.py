"""PNG, JPEG, TIFF and BMP files as 8-bit pictures, upright, whatever mode, bit depth and polarity they are stored in.

Pillow decodes; what it leaves to its callers is done here: orientation, WhiteIsZero of 16 bits, transparency.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from meddap_monai.errors import ConfigurationError, UnreadableImage
from meddap_monai.images.reading.containers import check_scans, contents
from meddap_monai.images.reading.limits import Limits, check_decoded_size, check_frame_size, open_regular

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation (tag 0112) -> what makes an image (H, W, ...) upright."""
_PHOTOMETRIC, _BITS, _COLORMAP, _SAMPLE_FORMAT = 262, 258, 320, 339


class Raster:
    """An opened raster file.

    Attributes:
        path: of the file.
        image: what Pillow opened.
        pages: Pillow's numbers of its pictures.
        turn: EXIF orientation, 1 to 8; TIFF files are turned by Pillow and count as 1.
        limits: ceilings.
    """

    def __init__(self, path: Path | str, stream: BinaryIO, size: int, limits: Limits) -> None:
        """Walk over the file, then let Pillow read its header."""
        found = contents(path, stream, size, limits)
        stream.seek(0)
        self.path, self.limits, self.pages = path, limits, found.pages
        self.image: Any = Image.open(stream, formats=FORMATS)
        if self.pages[0] != 0:
            self.image.seek(self.pages[0])
        check_frame_size(path, self.image.height, self.image.width, limits)
        if self.image.format in ("JPEG", "MPO"):
            place = stream.tell()
            check_scans(path, stream, self.image.height * self.image.width, limits)
            stream.seek(place)
        if self.image.format == "PNG" and isinstance(self.image.info.get("transparency"), int):
            # it is told in the file's own bits, which Pillow spreads over 8
            self.image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(str(self.image.tile[0].args), 1)
        turn = self.image.getexif().get(0x0112, 1) if found.may_turn else 1
        self.turn = turn if turn in _TURNS else 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        height, width = self.image.height, self.image.width
        return (width, height) if self.turn >= 5 else (height, width)

    def picture(self, number: int) -> np.ndarray:
        """Return picture `number`, (H, W) or (H, W, 3) uint8, transparency over black, deep pixels over their range."""
        page = self.pages[number]
        if page != self.image.tell():
            if self.image.format == "PNG":  # an animation is decoded frame after frame
                check_decoded_size(self.path, page + 1, self.image.height * self.image.width * 4, self.limits)
            self.image.seek(page)
            check_frame_size(self.path, self.image.height, self.image.width, self.limits)
        self.image.load()
        shown = _shown(self.path, self.image)
        return np.ascontiguousarray(_TURNS[self.turn](shown)) if self.turn != 1 else shown


@contextlib.contextmanager
def open_raster(path: Path | str, limits: Limits) -> Iterator[Raster]:
    """Open a PNG, JPEG, TIFF or BMP file; every fault while it is open becomes `UnreadableImage`."""
    stream, size = open_regular(path, limits)
    with raster_errors(path, limits), stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of is refused by the ceilings, or read
        raster = Raster(path, stream, size, limits)
        with raster.image:
            yield raster


@contextlib.contextmanager
def raster_errors(path: Path | str, limits: Limits) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into `UnreadableImage`."""
    try:
        yield
    except (UnreadableImage, ConfigurationError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: has too many pixels, expected at most {limits.frame_pixels:,}") from error
    except MemoryError as error:
        raise UnreadableImage(f"{path}: asks for more memory than there is") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(
            f"{path}: damaged, or its kind of pixels is not supported; expected {', '.join(FORMATS)} of up to 16 bits"
        ) from error
    except Exception as error:
        raise UnreadableImage(f"{path}: damaged ({type(error).__name__} while reading)") from error


def _shown(path: Path | str, image: Any) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) uint8 of a loaded picture."""
    tags = getattr(image, "tag_v2", {})
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _deep(path, image, tags, clear)
    if image.mode in ("1", "L"):
        grey = np.asarray(image if image.mode == "L" else image.convert("L"))
        grey = grey ^ 128 if tags.get(_SAMPLE_FORMAT) == (2,) else grey  # signed: -128 is black
        return grey if clear is None else np.where(grey == clear, np.uint8(0), grey)
    if image.mode in ("LA", "La"):
        return _over_black(image.convert("LA").convert("RGBA"))[..., 0]
    if image.mode == "P" and len(tags.get(_COLORMAP, ())) >= 3 and max(tags[_COLORMAP]) < 256:
        return _byte_palette(image, tags[_COLORMAP])
    if image.mode == "RGB" and clear is not None and max(clear) > 255:
        raise UnreadableImage(f"{path}: a transparent colour of 16 bits is not supported; save it with 8 bits")
    if image.mode in ("RGBA", "PA") or clear is not None:
        return _over_black(image.convert("RGBA"))
    if image.mode in ("RGB", "P", "CMYK", "YCbCr"):
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    kind = "floating-point pixels" if image.mode == "F" else f"pixels of the kind {image.mode}"
    raise UnreadableImage(f"{path}: holds {kind}, expected grey, palette, RGB or CMYK of 8 or 16 bits")


def _deep(path: Path | str, image: Any, tags: Any, clear: int | None) -> np.ndarray:
    """Grey of 12 or 16 bits: the whole range of the stored bits becomes 0 to 255, as for DICOM without a window."""
    bits = tags.get(_BITS, (16,))[0]
    if bits > 16:
        raise UnreadableImage(f"{path}: holds {bits}-bit integers, expected 8 or 16 bits; their range is not known")
    values = np.asarray(image).astype(np.int64)
    if tags.get(_SAMPLE_FORMAT) == (2,):
        values += 1 << (bits - 1)
    top = (1 << bits) - 1
    if tags.get(_PHOTOMETRIC) == 0:
        values = top - values
    shown = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)
    return shown if clear is None else np.where(values == clear, np.uint8(0), shown)


def _over_black(image: Image.Image) -> np.ndarray:
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, image).convert("RGB"))


def _byte_palette(image: Any, table: tuple[int, ...]) -> np.ndarray:
    """A TIFF palette that holds 8-bit entries in its 16-bit words, as old writers made them and libtiff reads them."""
    colours = np.asarray(table, np.uint8).reshape(3, -1).T
    indices = np.asarray(image)
    if indices.max(initial=0) >= len(colours):
        raise ValueError("index outside of the palette")
    return colours[indices]
