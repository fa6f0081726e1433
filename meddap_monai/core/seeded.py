"""A MONAI data set whose random transforms give the same picture whatever the number of workers."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from monai.data import Dataset
from monai.transforms import Randomizable, apply_transform

from meddap_monai.core.seeds import derive_seed


class SeededDataset(Dataset):
    """Seed the transform before each item with ``hash(run seed, stage, item id, epoch)``.

    MONAI's own data sets draw from one stream per worker, so 0, 2 and 4 workers differ; here they are equal.

    Args:
        data: records or other datalist items; the key ``id`` names an item, else its index does.
        transform: a MONAI transform, usually a ``Compose``.
        seed: run seed.
        stage: name that separates this data set's randomness from others with the same seed.
    """

    def __init__(
        self, data: Sequence[Any], transform: Callable[[Any], Any] | None = None, seed: int = 0, stage: str = "classify"
    ) -> None:
        super().__init__(data, transform)
        self.seed, self.stage, self.epoch = seed, stage, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over the data; call it before the loader's workers start the pass."""
        self.epoch = epoch

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        name = item.get("id", index) if isinstance(item, dict) else index
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=derive_seed(self.seed, self.stage, name, self.epoch) % 2**32)
        return apply_transform(self.transform, deepcopy(item)) if self.transform is not None else item
