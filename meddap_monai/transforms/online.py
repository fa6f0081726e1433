"""The generator itself as the source of a random transform, and batched inside a training engine.

Built when first used, so that it can be pickled and sent to workers. On a GPU it runs in the training process: with
``num_workers=0`` or MONAI's ``ThreadDataLoader``; a forked worker cannot use CUDA.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.engines import PrepareBatch, default_prepare_batch
from PIL import Image

from meddap_monai.core.configuration import build
from meddap_monai.core.constraints import check_choice
from meddap_monai.core.printing import PrintsArguments
from meddap_monai.core.seeds import derive_seed
from meddap_monai.errors import ConfigurationError
from meddap_monai.images.framing import frame, from_levels, to_levels
from meddap_monai.transforms.placement import BLACK_WHITE, check_levels, is_transposed

if TYPE_CHECKING:
    from meddap_monai.diffusion.bases.base import Base
    from meddap_monai.diffusion.generation.nearness import NearnessCheck
    from meddap_monai.diffusion.generation.sampler import ImageSampler


JUDGED = 8
"""Images made from the images at hand that are held against them, once for each generator."""


class OnlineGenerator(PrintsArguments):
    """Makes an image of a class on demand, from the prompt alone or from the real image at hand.

    Args:
        classes: class names in the order of their integer labels.
        base: see ``open_base``.
        adapters: adapter folders or files.
        settings: keys of ``GenerateConfig``: ``mode`` (text or image), ``strength``, ``steps``, ``guidance``,
            ``scheduler``, ``prompts``, ``device``, ...

    Raises:
        ConfigurationError: an unknown key, a wrong value, or the mode inpaint.
    """

    def __init__(
        self,
        classes: Sequence[str],
        base: str | Path | Base = "embedded",
        adapters: Sequence[str | Path] = (),
        **settings: Any,
    ) -> None:
        from meddap_monai.diffusion.bases.base import open_base
        from meddap_monai.diffusion.bases.prompt_choice import table_for
        from meddap_monai.diffusion.generation.config import GenerateConfig
        from meddap_monai.diffusion.generation.defaults import settled

        self.classes, self.base = list(classes), open_base(base)
        given = build(GenerateConfig, settings, "generator")
        self.config, chosen = settled(given, self.base, adapters)
        self.adapters = [str(path) for path in chosen]
        check_choice(self.config.mode, ("text", "image"), "generator#mode")
        self.near, self.made = 0, 0
        self._nearness: NearnessCheck | None = None
        self.table = table_for(self.config.prompts, self.classes)
        self._sampler: ImageSampler | None = None
        self._open = contextlib.ExitStack()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave networks and lock behind; they are made again on the other side."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was pickled."""
        self.__dict__.update(state, _sampler=None, _nearness=None, _open=contextlib.ExitStack(), _lock=threading.Lock())

    def has(self, label: int | str) -> bool:
        """Tell whether a label (an int) or a class (a name) can be generated."""
        return label in self.classes if isinstance(label, str) else 0 <= label < len(self.classes)

    def draw(self, label: int | str, seed: int, image: np.ndarray | None = None) -> np.ndarray:
        """Return one image ``(H, W, 3) uint8``; see `draw_batch`."""
        return self.draw_batch([label], [seed], None if image is None else [image])[0]

    def draw_batch(
        self, labels: Sequence[int | str], seeds: Sequence[int], images: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Make one image per label in one batch.

        Args:
            labels: integer labels or class names.
            seeds: one per image, in ``[0, 2**63)``.
            images: ``(H, W) or (H, W, 3) uint8``, the real images of the mode image.

        Returns:
            One ``(height, width, 3) uint8`` per label: of the base's size, or of the real image's in the mode image.

        Raises:
            ConfigurationError: an unknown class, no image in the mode image, a forked worker with CUDA, or a strength
                that leaves the images near copies of those at hand.
        """
        with self._lock:
            sampler = self._ready()
            rows = [self._row(label, seed, sampler.size) for label, seed in zip(labels, seeds, strict=True)]
            made = sampler.sample(rows, self._sources(images, rows[0].height, rows[0].width))
        if self.config.mode == "text" or images is None:
            return list(made)
        fitted = [_resized(picture, image.shape[:2]) for picture, image in zip(made, images, strict=True)]
        if not self.config.near_copies:
            self._refuse_near(fitted, images)
        return fitted

    def marks(self, levels: np.ndarray, seed: int) -> dict[str, Any]:
        """Return what the meta data of one of its images say: base, mode, seed, and whether a patient's image is in it.

        Args:
            levels: (H, W) or (H, W, 3) uint8 as `draw` returned it; one made from words is held against all images that
                base and adapters were trained on.
            seed: that it was drawn by.
        """
        from meddap_monai.diffusion.adapters.file import adapter_path
        from meddap_monai.diffusion.generation.nearness import NearnessCheck
        from meddap_monai.images.provenance import training_images

        derived = self.config.mode != "text"
        if not derived:
            if self._nearness is None:
                trained = [training_images(adapter_path(path)) for path in self.adapters]
                self._nearness = NearnessCheck([self.base.training_images, *trained])
            derived = self._nearness([levels], ["text"])[0]["derived"]
        return {"base": Path(self.base.name).name, "mode": self.config.mode, "seed": seed, "derived": derived}

    def _refuse_near(self, made: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> None:
        """Stop once half of the first `JUDGED` images, or more, are near copies of the images at hand."""
        from meddap_monai.diffusion.generation.nearness import image_like, is_near, too_near

        if self.made >= JUDGED:
            return
        found = [image_like(picture, source) for picture, source in zip(made, sources, strict=True)]
        self.near, self.made = self.near + sum(map(is_near, found)), self.made + len(found)
        if self.made >= JUDGED and 2 * self.near >= self.made:
            strength = self.config.strengths[0]
            raise ConfigurationError(too_near("generator", strength, self.near, self.made))

    def _ready(self) -> ImageSampler:
        if self._sampler is None:
            from meddap_monai.core.devices import choose_device
            from meddap_monai.diffusion.generation.stage import open_sampler

            refuse_forked_cuda(choose_device(self.config.device, "device"))
            self._sampler = self._open.enter_context(open_sampler(self.config, self.base, self.adapters))
        refuse_forked_cuda(self._sampler.device)
        return self._sampler

    def _row(self, label: int | str, seed: int, size: tuple[int, int]) -> Any:
        from meddap_monai.diffusion.generation.planning import PlanInputs, complete_row

        if not self.has(label):
            raise ConfigurationError(f"generator: label {label!r} is none of {', '.join(self.classes)}")
        name = label if isinstance(label, str) else self.classes[label]
        wanted = PlanInputs(self.classes, {}, {}, size, words=self.base.words)
        given = {"class_name": name, "seed": seed, "source_id": "" if self.config.mode == "text" else "at hand"}
        return complete_row(0, seed, given, self.config, self.table, wanted)

    def _sources(self, images: Sequence[np.ndarray] | None, height: int, width: int) -> Any:
        if self.config.mode == "text":
            return None
        if images is None:
            raise ConfigurationError("generator#mode: image needs the real image; place the transform after LoadImaged")
        from meddap_monai.diffusion.generation.sampler import Sources

        pixels = np.stack([_resized(image, (height, width)) for image in images]).astype(np.float32)
        return Sources(torch.from_numpy(pixels / 127.5 - 1.0).permute(0, 3, 1, 2))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image as ``(height, width, 3) uint8`` of that size, the whole of it: what is where stays."""
    picture = Image.fromarray(image).convert("RGB")
    return np.asarray(frame(picture, *size, "stretch", resampling=Image.Resampling.BICUBIC))


def refuse_forked_cuda(device: torch.device) -> None:
    """Raise when a forked worker process is about to use CUDA.

    Raises:
        ConfigurationError: says what to do instead.
    """
    forked = multiprocessing.parent_process() is not None and multiprocessing.get_start_method() == "fork"
    if device.type == "cuda" and forked:
        raise ConfigurationError(
            f"generator: {device} cannot be used in a forked DataLoader worker; use num_workers=0, MONAI's "
            "ThreadDataLoader, or a bank of images generated before"
        )


class DiffusionPrepareBatch(PrintsArguments, PrepareBatch):
    """A MONAI `prepare_batch` that replaces some images of a batch by synthetic ones, all in one go on the device.

    Args:
        generator: an `OnlineGenerator` or its arguments as a mapping.
        prob: chance of each image to be replaced.
        seed: which images, and how they look; the n-th call of two equal objects does the same.
        black_white: the values that black and white have in the batch.
        transposed: whether the batch has the width first, as MONAI's own PNG reading gives it; None: as its meta data
            show, an error where they do not.
    """

    def __init__(
        self,
        generator: OnlineGenerator | Mapping[str, Any],
        prob: float = 0.5,
        seed: int = 0,
        black_white: tuple[float, float] = BLACK_WHITE,
        transposed: bool | None = None,
    ) -> None:
        self.generator = OnlineGenerator(**generator) if isinstance(generator, Mapping) else generator
        self.prob, self.seed, self.black_white, self.transposed, self.calls = prob, seed, black_white, transposed, 0

    def __call__(
        self,
        batchdata: Any,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return (images, labels) as MONAI's default does, some images replaced."""
        images, labels = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        if labels is None:
            raise ConfigurationError("DiffusionPrepareBatch: the batch has no labels, expected 'image' and 'label'")
        draw = np.random.default_rng(derive_seed(self.seed, "prepare_batch", self.calls))
        self.calls += 1
        chosen = np.flatnonzero(draw.random(len(images)) < self.prob)
        seeds = draw.integers(2**31, size=len(images))
        if len(chosen):
            known, lying = [], []
            for index in chosen:
                check_levels(images[int(index)], self.black_white, "DiffusionPrepareBatch")
                lying.append(is_transposed(images[int(index)], self.transposed, "DiffusionPrepareBatch"))
                known.append(to_levels(images[int(index)], self.black_white, lying[-1]))
            wanted = [int(labels[int(index)]) for index in chosen]
            made = self.generator.draw_batch(wanted, [int(seeds[index]) for index in chosen], known)
            images = images.clone()
            for index, levels, transposed in zip(chosen, made, lying, strict=True):
                images[int(index)] = from_levels(levels, images[int(index)], self.black_white, transposed)
        return images, labels
