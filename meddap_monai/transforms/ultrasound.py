"""MONAI transforms around the ultrasound region: load, crop to it, blacken what is burned in around it."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialCrop, Transform
from monai.utils import ImageMetaKey, TransformBackends, convert_to_dst_type, convert_to_tensor

from meddap_monai.core.constraints import check_choice
from meddap_monai.core.printing import PrintsArguments
from meddap_monai.errors import UnreadableImage
from meddap_monai.images.reading.reader import UltrasoundReader
from meddap_monai.images.reading.regions import find_region

Box = tuple[int, int, int, int]
MISSING = ("tight", "keep", "error")


class LoadUltrasound(PrintsArguments, Transform):
    """Load one ultrasound image of any format as `MetaTensor`, channel first and row first.

    Unlike ``LoadImage`` it keeps the error of the reader (`UnreadableImage`) and needs no suffix.

    Args:
        frames: of clips; one frame gives (C, H, W), several give (F, C, H, W). See `read_ultrasound`.
        outside: "keep", "zero" or "crop" what lies outside of the B-mode region.
        colour: "keep", "auto" (grey that was stored as colour becomes one channel) or "grey".
        window: "file", "none" or "minmax".
        modality: "US" or "any".
        guess_region: look for the scan in the pixels of files without a region; see `read_ultrasound`.
        full_frame: return files without a region whole instead of refusing them.
        key_file: pseudonym key; default: the user's.
        dtype: of the tensor.
    """

    def __init__(
        self,
        frames: str = "middle",
        outside: str = "keep",
        colour: str = "auto",
        window: str = "file",
        modality: str = "any",
        guess_region: bool = True,
        full_frame: bool = False,
        key_file: Path | str | None = None,
        dtype: DtypeLike | torch.dtype = torch.float32,
    ) -> None:
        self.reader = UltrasoundReader(frames, outside, colour, window, modality, guess_region, full_frame, key_file)
        self.dtype = dtype

    def __call__(self, filename: str | Path) -> MetaTensor:
        """Load a file.

        Args:
            filename: its path.

        Returns:
            (C, H, W) or (F, C, H, W), 0 to 255, with the reader's meta data.

        Raises:
            UnreadableImage: the file cannot be read.
        """
        pixels, meta = self.reader.get_data(self.reader.read(filename))
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(filename)
        image = convert_to_dst_type(pixels, dst=pixels, dtype=self.dtype)[0]
        return MetaTensor.ensure_torch_and_prune_meta(image, meta)


class LoadUltrasoundd(PrintsArguments, MapTransform):
    """Dictionary version of `LoadUltrasound`.

    Args:
        keys: keys that hold paths.
        allow_missing_keys: do not raise when a key is missing.
        kwargs: of `LoadUltrasound`.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **kwargs: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self._loader = LoadUltrasound(**kwargs)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the items with each path replaced by its image."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = self._loader(items[key])
        return items


def _region_of(image: NdarrayOrTensor, missing: str) -> tuple[Box, np.ndarray | None] | None:
    """The box (top, left, bottom, right) of an image from its meta data, or box and (H, W) mask from its pixels."""
    meta: Mapping[str, Any] = image.meta if isinstance(image, MetaTensor) else {}
    if meta.get("cropped"):
        return None
    box = tuple(int(side) for side in np.asarray(meta.get("region", (-1,) * 4)).ravel())
    if len(box) == 4 and 0 <= box[0] < box[2] <= image.shape[-2] and 0 <= box[1] < box[3] <= image.shape[-1]:
        return box, None
    found = None
    if missing == "tight":
        pixels = np.asarray(convert_to_tensor(image).detach().cpu()).reshape(-1, *image.shape[-3:]).max(1)
        top = float(pixels.max())
        found = find_region(np.clip(pixels * (255.0 if top <= 1.0 else 1.0), 0, 255).astype(np.uint8))
    if found:
        region, mask = found
        return (region.top, region.left, region.bottom, region.right), mask
    if missing == "keep":
        return None
    raise UnreadableImage(
        f"{meta.get('filename_or_obj', 'image')}: no B-mode region in its meta data and no tight box in its pixels; "
        "load it with LoadUltrasound, or set missing to keep for images known to be clean"
    )


def _blacken(image: NdarrayOrTensor, mask: np.ndarray | None) -> NdarrayOrTensor:
    """The image with 0 where an (H, W) mask is False; itself without a mask."""
    if mask is None:
        return image
    return image * convert_to_dst_type(mask, dst=image, dtype=image.dtype)[0]


class _RegionTransform(PrintsArguments, Transform):
    """What the transforms of the region share; see `CropToUltrasoundRegion`."""

    backend = [TransformBackends.TORCH]

    def __init__(self, missing: str = "tight") -> None:
        check_choice(missing, MISSING, f"{type(self).__name__}#missing")
        self.missing = missing

    @abstractmethod
    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Change (C, H, W) or (F, C, H, W); an image that is cropped already comes back unchanged."""


class CropToUltrasoundRegion(_RegionTransform):
    """Crop to the B-mode region that the reader found; spacing and affine follow the crop.

    Args:
        missing: without a region in the meta data, "tight" looks for the scan in the pixels and raises when there is
            none, "keep" returns the image as it is, "error" raises.
    """

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Crop (C, H, W) or (F, C, H, W); an image that is cropped already comes back unchanged."""
        found = _region_of(img, self.missing)
        if found is None:
            return img
        (top, left, bottom, right), mask = found
        img = _blacken(img, mask)
        cropped: NdarrayOrTensor = img[..., top:bottom, left:right]
        if img.ndim == 3:
            cropped = SpatialCrop(roi_slices=[slice(top, bottom), slice(left, right)])(img)  # type: ignore[arg-type]
        if isinstance(cropped, MetaTensor):
            cropped.meta = dict(cropped.meta) | {"region": np.full(4, -1), "cropped": True}
        return cropped


class MaskBurnedIn(_RegionTransform):
    """Set everything outside of the B-mode region to 0, where scanners burn in names, dates and settings.

    Args:
        missing: see `CropToUltrasoundRegion`.
    """

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Mask (C, H, W) or (F, C, H, W); shape, dtype and meta data stay."""
        found = _region_of(img, self.missing)
        if found is None:
            return img
        (top, left, bottom, right), mask = found
        masked = _blacken(img.clone() if isinstance(img, torch.Tensor) else img.copy(), mask)
        masked[..., :top, :] = 0
        masked[..., bottom:, :] = 0
        masked[..., :left] = 0
        masked[..., right:] = 0
        return masked


class _RegionTransformd(PrintsArguments, MapTransform):
    """Dictionary version of a transform of the region."""

    backend = _RegionTransform.backend
    inner: type[_RegionTransform]

    def __init__(self, keys: KeysCollection, missing: str = "tight", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = self.inner(missing)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Return the items with each image changed."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[key] = self.transform(items[key])
        return items


class CropToUltrasoundRegiond(_RegionTransformd):
    """Dictionary version of `CropToUltrasoundRegion`.

    Args:
        keys: keys of the images.
        missing: see `CropToUltrasoundRegion`.
        allow_missing_keys: do not raise when a key is missing.
    """

    inner = CropToUltrasoundRegion


class MaskBurnedInd(_RegionTransformd):
    """Dictionary version of `MaskBurnedIn`.

    Args:
        keys: keys of the images.
        missing: see `CropToUltrasoundRegion`.
        allow_missing_keys: do not raise when a key is missing.
    """

    inner = MaskBurnedIn


LoadUltrasoundD = LoadUltrasoundDict = LoadUltrasoundd
CropToUltrasoundRegionD = CropToUltrasoundRegionDict = CropToUltrasoundRegiond
MaskBurnedInD = MaskBurnedInDict = MaskBurnedInd
