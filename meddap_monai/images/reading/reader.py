"""`UltrasoundReader`: the reader of this package as a MONAI ``ImageReader``, for ``LoadImage(d)`` and `LoadUltrasound`.

DICOM goes through `read_ultrasound`, PNG and the like and NIfTI through `read_plain`; the same picture gives the same
tensor whatever its file, and it does not matter which other readers are installed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.dicom import UltrasoundInfo, read_ultrasound
from meddap_monai.images.reading.plain import FORMATS, read_plain, sniff
from meddap_monai.images.reading.pseudonym import load_key

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Of DICOM files; those of the others stand in `FORMATS`."""


class UltrasoundReader(ImageReader):
    """Read ultrasound images row first.

    A single frame is ``(C, H, W) uint8`` with ``original_channel_dim`` 0; several frames are ``(F, C, H, W)`` with
    ``original_channel_dim`` 1, so that MONAI's ``EnsureChannelFirst`` makes ``(C, F, H, W)`` of them. The affine maps
    (row, column) or (frame, row, column) to millimetres: columns along x, rows along y, both negated as MONAI's other
    readers do when they turn DICOM's axes into RAS.

    Args:
        frames: frame policy (`read_ultrasound`) of clips, multi-page TIFF and NIfTI slices.
        outside: "keep", "zero" or "crop" what lies outside of the B-mode region of DICOM files.
        colour: "keep", "auto" or "grey".
        window: "file", "none" or "minmax".
        modality: "US" or "any".
        guess_region: look for the scan in the pixels of files without a region; see `read_ultrasound`.
        full_frame: return files without a region whole instead of refusing them.
        key_file: pseudonym key; default: the user's.
    """

    def __init__(
        self,
        frames: str = "middle",
        outside: str = "keep",
        colour: str = "keep",
        window: str = "file",
        modality: str = "any",
        guess_region: bool = True,
        full_frame: bool = False,
        key_file: Path | str | None = None,
    ) -> None:
        super().__init__()
        self.how: dict[str, Any] = {
            "frames": frames,
            "outside": outside,
            "colour": colour,
            "window": window,
            "modality": modality,
            "guess_region": guess_region,
            "full_frame": full_frame,
        }
        self.key_file = key_file

    @cached_property
    def _key(self) -> bytes:
        return load_key(self.key_file)

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Whether every name ends like an image this reader knows, or has no suffix (DICOM often has none)."""
        names = [Path(str(name)).name.lower() for name in ensure_tuple(filename)]
        known = (*SUFFIXES, *(suffix for kind in FORMATS.values() for suffix in kind.suffixes))
        return all(name.endswith(known) or "." not in name or name.replace(".", "").isdigit() for name in names)

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Read exactly one file.

        Args:
            data: its path.
            kwargs: arguments of the constructor to use for this file instead.

        Raises:
            UnreadableImage: several files (stills are never merged), a folder, or a damaged file.
        """
        names = ensure_tuple(data)
        if len(names) != 1:
            raise UnreadableImage(f"{len(names)} files were given as one image; files are never merged, give one")
        path = str(names[0])
        how = self.how | kwargs
        if sniff(path) == "dicom":
            pixels, info = read_ultrasound(path, key=self._key, **how)
            return pixels, _facts(info)
        pixels, spacing, numbers, _ = read_plain(path, frames=how["frames"], colour=how["colour"])
        return pixels, _plain_facts(spacing, numbers)

    def get_data(self, img: tuple[np.ndarray, dict[str, Any]]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return array and meta dictionary of what `read` returned; every meta value collates."""
        pixels, facts = img
        single = pixels.shape[0] == 1
        array = pixels[0] if single else pixels
        rows, columns = pixels.shape[2:]
        affine = _affine(facts.pop("spacing"), single)
        meta: dict[str, Any] = facts | {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray((rows, columns) if single else (len(pixels), rows, columns)),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if single else 1,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
        return array, meta


def _facts(info: UltrasoundInfo) -> dict[str, Any]:
    region = info.region
    inside = info.box != (0, 0, info.rows, info.columns)
    box = (region.top, region.left, region.bottom, region.right) if region and not inside else (-1, -1, -1, -1)
    return {
        "spacing": info.spacing_mm,
        "spacing_mm": np.asarray(info.spacing_mm or (0.0, 0.0)),
        "region": np.asarray(box),
        "regions": json.dumps([asdict(item) for item in info.regions]),
        "cropped": inside,
        "frames": np.asarray(info.chosen_frames),
        "patient": info.patient,
        "centre": info.centre,
        "device": info.device,
        "modality": info.modality,
    }


def _plain_facts(spacing: tuple[float, float] | None, numbers: tuple[int, ...]) -> dict[str, Any]:
    return {
        "spacing": spacing,
        "spacing_mm": np.asarray(spacing or (0.0, 0.0)),
        "region": np.asarray((-1, -1, -1, -1)),
        "regions": "[]",
        "cropped": False,
        "frames": np.asarray(numbers),
        "patient": "",
        "centre": "",
        "device": "unknown",
        "modality": "other",
    }


def _affine(spacing: tuple[float, float] | None, single: bool) -> np.ndarray:
    """(4, 4) float64 from array axes to millimetres in RAS; unknown spacing counts as 1 mm."""
    row, column = spacing or (1.0, 1.0)
    affine = np.zeros((4, 4))
    first = 0 if single else 1
    affine[1, first] = -row
    affine[0, first + 1] = -column
    affine[2, 2 if single else 0] = 1.0
    affine[3, 3] = 1.0
    return affine
