"""`SyntheticDicomWriter`: synthetic DICOM through MONAI's ``SaveImage(d)``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageWriter, register_writer
from monai.utils import convert_data_type

from meddap_monai.errors import ConfigurationError
from meddap_monai.images.writing.write import write_synthetic_dicom


class SyntheticDicomWriter(ImageWriter):
    """Write one generated image as DICOM that is marked as synthetic.

    Use it as ``SaveImage(output_ext=".dcm", writer="meddap_monai.images.writing.writer.SyntheticDicomWriter",
    resample=False)``, or call `register` once and leave `writer` out.

    Args:
        output_dtype: accepted for MONAI's sake; files always hold 8 bits.
        channel_dim: axis of the channels, None for (H, W).
        scale: 255 expects values in 0..1, None expects values in 0..255.
        compression: "none", "rle" or "jpeg2000".
        kwargs: further attributes, as MONAI's writers accept.
    """

    def __init__(
        self,
        output_dtype: Any = np.uint8,
        channel_dim: int | None = 0,
        scale: int | None = None,
        compression: str = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.channel_dim, self.scale, self.compression = channel_dim, scale, compression
        self._meta: Mapping[str, Any] = {}

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
        """Take the image: (C, H, W) or (H, W), row first, numbers in 0..1 (scale 255) or 0..255.

        Raises:
            ConfigurationError: another shape, or values that are not finite or out of range.
        """
        values = np.asarray(convert_data_type(data_array, np.ndarray)[0], dtype=np.float64)
        values = values[None] if channel_dim is None or values.ndim == 2 else np.moveaxis(values, channel_dim, 0)
        values = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
        top = 1.0 if self.scale == 255 else 255.0
        if not np.isfinite(values).all() or values.min() < -1e-6 * top or values.max() > top * (1 + 1e-6):
            raise ConfigurationError(
                f"SyntheticDicomWriter: values {values.min():g} to {values.max():g}, expected finite ones in 0 to "
                f"{top:g}; set scale=255 for images in 0..1"
            )
        self.data_obj = np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None = None, **options: Any) -> None:
        """Take what is written beside the pixels.

        Args:
            meta_dict: ``synthetic`` (the record's field) or its parts (prompt, seed, base, adapters), ``run``, ``id``,
                ``class_name``, ``number`` and ``spacing_mm``; everything else is ignored. No ``spatial_shape`` needed.
            options: MONAI's resampling options, not used: pixels are written as they are.
        """
        self._meta = dict(meta_dict or {})

    def write(self, filename: Any, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file atomically.

        Args:
            filename: of the file.
            verbose: log the name.
            kwargs: of `synthetic_dicom`, overriding the meta data.
        """
        super().write(filename, verbose=verbose)
        meta = self._meta
        names = ("prompt", "negative_prompt", "seed", "base", "adapters", "mode", "derived")
        synthetic = meta.get("synthetic") or {name: meta[name] for name in names if name in meta}
        spacing = [float(part) for part in np.asarray(meta.get("spacing_mm", ())).ravel()]
        known = len(spacing) == 2 and all(np.isfinite(part) and part > 0 for part in spacing)
        keys: dict[str, Any] = {
            "run": str(meta.get("run", Path(filename).parent.name)),
            "item": str(meta.get("id", Path(filename).name)),
            "number": int(meta.get("number", 1)),
            "class_name": str(meta.get("class_name", "")),
            "spacing_mm": (spacing[0], spacing[1]) if known else None,
            "compression": self.compression,
        }
        write_synthetic_dicom(filename, np.asarray(self.data_obj), synthetic, **(keys | kwargs))


def register() -> None:
    """Make this writer MONAI's choice for the suffix ``.dcm``."""
    register_writer("dcm", SyntheticDicomWriter)
