"""Random transforms that put a synthetic image of the same label in the place, or at the side, of a real one.

The synthetic image comes from a bank made before (fast, safe in every worker) or from the generator itself. Placed
before ``LoadImaged``, with a bank, the file's path is exchanged; placed after it, the pixels are.
"""

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, MultiSampleTrait, RandomizableTransform
from monai.utils import TransformBackends

from meddap_monai.core.printing import PrintsArguments
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import from_levels, to_levels
from meddap_monai.transforms.bank import ImageBank
from meddap_monai.transforms.online import OnlineGenerator
from meddap_monai.transforms.placement import BLACK_WHITE, check_levels, is_transposed

Source = ImageBank | OnlineGenerator
_SEEDS = 2**31 - 1


class RandDiffusionAugment(PrintsArguments, RandomizableTransform):
    """Replace an image, with probability `prob`, by a synthetic one of the same label.

    Args:
        bank: records file of synthetic images (``generated.jsonl``, ``kept.jsonl``) or an `ImageBank`.
        generator: instead of a bank, an `OnlineGenerator` or its arguments as a mapping.
        prob: chance of a replacement.
        black_white: the values that black and white have at this place of the pipeline.
        transposed: whether images have the width first, as ``LoadImage`` gives PNG files; None: as their meta data
            show (`width_first`), an error where they do not. Paths are not affected.
        allow_missing_classes: keep the real image where the bank holds none of its label, instead of raising.

    Raises:
        ConfigurationError: neither or both of `bank` and `generator` are given.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        bank: ImageBank | str | Path | None = None,
        generator: OnlineGenerator | Mapping[str, Any] | None = None,
        prob: float = 0.5,
        black_white: tuple[float, float] = BLACK_WHITE,
        transposed: bool | None = None,
        allow_missing_classes: bool = False,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.source = open_source(bank, generator)
        self.black_white, self.transposed = (float(black_white[0]), float(black_white[1])), transposed
        self.allow_missing_classes = allow_missing_classes
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether to replace, and by what; the number of draws is always the same."""
        super().randomize(None)
        self.seed = int(self.R.randint(_SEEDS))

    def __call__(self, img: Any, label: Any, randomize: bool = True) -> Any:  # type: ignore[override]
        """Return the image, or a synthetic one.

        Args:
            img: ``(C, H, W)`` array or tensor, or the path of an image file (bank only).
            label: integer label or class name.
            randomize: draw anew; else the last draw is used.

        Raises:
            RecordsError: the bank holds no image of the label.
            ConfigurationError: nothing tells which axis is the width, or the image's values are not those said.
        """
        if randomize:
            self.randomize()
        return self.synthetic(img, label, self.seed) if self.replaces(label) else img

    def replaces(self, label: Any) -> bool:
        """Tell whether the last draw replaces an image of this label."""
        return self._do_transform and (not self.allow_missing_classes or self.source.has(label_of(label)))

    def synthetic(self, img: Any, label: Any, seed: int) -> Any:
        """Return the synthetic image of a label that a seed chooses, in the form of `img`.

        The meta data of a `MetaTensor` then hold ``base``, ``mode``, ``seed`` and ``derived`` (from a patient's image);
        `SyntheticDicomWriter` writes them.
        """
        name = label_of(label)
        if isinstance(img, (str, os.PathLike)):
            if isinstance(self.source, OnlineGenerator):
                raise ConfigurationError(
                    "RandDiffusionAugment: the generator gives pixels, the image is still a path; place the transform "
                    "after LoadImaged and EnsureChannelFirstd, or use a bank"
                )
            return self.source.path(name, seed)
        check_levels(img, self.black_white, "RandDiffusionAugment")
        transposed = is_transposed(img, self.transposed, "RandDiffusionAugment")
        if isinstance(self.source, OnlineGenerator):
            levels = self.source.draw(name, seed, to_levels(img, self.black_white, transposed))
            marks = self.source.marks(levels, seed) if isinstance(img, MetaTensor) else {}
        else:
            levels, marks = self.source.draw(name, seed), self.source.marks(name, seed)
        made = from_levels(levels, img, self.black_white, transposed)
        if isinstance(made, MetaTensor):
            made.meta |= marks
        return made


class RandDiffusionSamples(RandDiffusionAugment, MultiSampleTrait):
    """Return the real image and `num_samples` synthetic ones of the same label, as a list.

    Args:
        num_samples: synthetic images beside the real one.
        options: see `RandDiffusionAugment`; `prob` is the chance that any are added (else the real one alone).
    """

    def __init__(self, num_samples: int = 1, **options: Any) -> None:
        RandDiffusionAugment.__init__(self, **{"prob": 1.0} | options)
        self.num_samples = num_samples

    def __call__(self, img: Any, label: Any, randomize: bool = True) -> list[Any]:  # type: ignore[override]
        """Return ``[real, synthetic, ...]``; see `RandDiffusionAugment`."""
        if randomize:
            self.randomize()
        if not self.replaces(label):
            return [img]
        return [img, *(self.synthetic(img, label, seed) for seed in seeds_from(self.seed, self.num_samples))]


class RandDiffusionAugmentd(PrintsArguments, RandomizableTransform, MapTransform):
    """Dictionary version of `RandDiffusionAugment`.

    All keys of an item get the same draw. Where the item has a ``source``, it becomes ``synthetic``.

    Args:
        keys: of the images (or their paths).
        label_key: of the integer label.
        class_key: of the class name, preferred where an item has it, as it does not depend on the order of classes.
        allow_missing_keys: leave items without a key alone.
        options: see `RandDiffusionAugment`.
    """

    backend = RandDiffusionAugment.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        class_key: str = "class_name",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, options.get("prob", 0.5))
        self.augment = RandDiffusionAugment(**options)
        self.label_key, self.class_key = label_key, class_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Any:
        """Seed this transform and the one inside it."""
        super().set_random_state(seed, state)
        self.augment.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a new item, its images perhaps replaced."""
        self.augment.randomize()
        label = item_label(data, self.label_key, self.class_key)
        if not self.augment.replaces(label):
            return dict(data)
        return self._replaced(data, label, self.augment.seed)

    def _replaced(self, data: Mapping[Hashable, Any], label: Any, seed: int) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(data):
            item[key] = self.augment.synthetic(data[key], label, seed)
            if isinstance(item[key], str) and "sha256" in item and isinstance(self.augment.source, ImageBank):
                item["sha256"] = self.augment.source.record(label_of(label), seed)["sha256"]
            if "source" in item:
                item["source"] = "synthetic"
        return item


class RandDiffusionSamplesd(RandDiffusionAugmentd, MultiSampleTrait):
    """Dictionary version of `RandDiffusionSamples`: one real item and its synthetic companions, as a list.

    Args:
        keys: of the images (or their paths).
        num_samples: synthetic items beside the real one.
        options: see `RandDiffusionAugmentd`; `prob` is the chance that any are added.
    """

    def __init__(self, keys: KeysCollection, num_samples: int = 1, **options: Any) -> None:
        RandDiffusionAugmentd.__init__(self, keys, **{"prob": 1.0} | options)
        self.num_samples = num_samples

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:  # type: ignore[override]
        """Return ``[real, synthetic, ...]``."""
        self.augment.randomize()
        label = item_label(data, self.label_key, self.class_key)
        if not self.augment.replaces(label):
            return [dict(data)]
        seeds = seeds_from(self.augment.seed, self.num_samples)
        return [dict(data), *(self._replaced(data, label, seed) for seed in seeds)]


RandDiffusionAugmentD = RandDiffusionAugmentDict = RandDiffusionAugmentd
RandDiffusionSamplesD = RandDiffusionSamplesDict = RandDiffusionSamplesd


def seeds_from(first: int, count: int) -> list[int]:
    """Return one seed per added image; those of one draw differ, and choose different images of a bank."""
    return [(first + number) % _SEEDS for number in range(count)]


def open_source(bank: ImageBank | str | Path | None, generator: OnlineGenerator | Mapping[str, Any] | None) -> Source:
    """Return the one source that is given.

    Raises:
        ConfigurationError: none or two are given.
    """
    if (bank is None) == (generator is None):
        raise ConfigurationError("RandDiffusionAugment: give exactly one of bank and generator")
    if bank is not None:
        return bank if isinstance(bank, ImageBank) else ImageBank(bank)
    return OnlineGenerator(**generator) if isinstance(generator, Mapping) else generator  # type: ignore[return-value]


def item_label(data: Mapping[Hashable, Any], label_key: str, class_key: str) -> Any:
    """Return an item's class name, or else its label.

    Raises:
        ConfigurationError: it has neither.
    """
    if class_key in data:
        return data[class_key]
    if label_key not in data:
        held = ", ".join(sorted(map(str, data)))
        raise ConfigurationError(
            f"RandDiffusionAugmentd: the item has neither {class_key!r} nor {label_key!r}, but {held}"
        )
    return data[label_key]


def label_of(label: Any) -> int | str:
    """Return a label as a plain int or text; one-element arrays and tensors count as ints."""
    return label if isinstance(label, str) else int(label)
