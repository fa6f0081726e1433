"""Real training images that image-to-image and inpainting start from, and the masks of what is painted again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from meddap_monai.core.records import Record
from meddap_monai.core.seeds import derive_seed
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.diffusion.generation.plan import PlanRow
from meddap_monai.diffusion.generation.sampler import Sources
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import crop_top
from meddap_monai.images.reading.opening import open_image
from meddap_monai.images.reading.recorded import open_recorded


@dataclass(frozen=True)
class SourceImages:
    """Where the sources of a run are found.

    Attributes:
        records: id -> the real training record.
        masks: folder with ``<id>.png``; none: an ellipse per image.
        region: "lesion" paints the mask's white part again, "background" the rest.
    """

    records: dict[str, Record]
    masks: Path | None = None
    region: str = "lesion"

    @classmethod
    def find(cls, records: Iterable[Record], config: GenerateConfig) -> SourceImages:
        """Collect the real training records that may be sources (none in the mode text)."""
        if config.mode == "text" and config.plan is None:
            return cls({}, config.masks, config.region)
        chosen = [record for record in records if record["split"] == "train" and record["source"] == "real"]
        return cls({record["id"]: record for record in chosen}, config.masks, config.region)

    def patient(self, row: PlanRow) -> str:
        """Return whose image a row makes: the source's patient, or "synthetic" for text."""
        return "synthetic" if row.mode == "text" else self.records[row.source_id]["patient"]

    def load(self, rows: Sequence[PlanRow]) -> Sources | None:
        """Return the source images and masks of one batch; None in the mode text.

        Raises:
            ConfigurationError: a source is not a real training record, or its mask is missing or empty.
        """
        if rows[0].mode == "text":
            return None
        images = torch.stack([self._image(row) for row in rows])
        masks = torch.stack([self._mask(row) for row in rows]) if rows[0].mode == "inpaint" else None
        return Sources(images, masks)

    def _image(self, row: PlanRow) -> torch.Tensor:
        if row.source_id not in self.records:
            raise ConfigurationError(
                f"plan row {row.row}: source_id {row.source_id!r} is no real training record; synthetic images are "
                "made from the training split only"
            )
        return image_tensor(open_recorded(self.records[row.source_id]).convert("RGB"), row.height, row.width)

    def _mask(self, row: PlanRow) -> torch.Tensor:
        mask = self._drawn_mask(row) if self.masks is None else self._mask_file(row, self.masks)
        return mask if self.region == "lesion" else 1.0 - mask

    def _mask_file(self, row: PlanRow, folder: Path) -> torch.Tensor:
        path = folder / f"{row.source_id}.png"
        if not path.is_file():
            raise ConfigurationError(f"{path}: no mask for source {row.source_id}; expected a PNG, white = lesion")
        cut = crop_top(open_image(path).convert("L"), row.height, row.width)
        mask = torch.from_numpy((np.asarray(cut) > 127).astype(np.float32))[None]
        if not mask.any():
            raise ConfigurationError(f"{path}: the mask is empty inside the used crop; expected white pixels")
        return mask

    def _drawn_mask(self, row: PlanRow) -> torch.Tensor:
        """Draw an upright ellipse in the middle of the image, from the image's own seed."""
        draw = np.random.default_rng(derive_seed(row.seed, "generate/mask"))
        centre, radius = draw.uniform(0.35, 0.65, 2), draw.uniform(0.12, 0.28, 2)
        y, x = np.mgrid[0 : row.height, 0 : row.width]
        y, x = (y + 0.5) / row.height, (x + 0.5) / row.width
        inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 <= 1
        return torch.from_numpy(inside.astype(np.float32))[None]


def image_tensor(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Return ``(3, H, W) float32 [-1, 1]`` of an RGB image."""
    pixels = np.array(crop_top(image, height, width), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1)
