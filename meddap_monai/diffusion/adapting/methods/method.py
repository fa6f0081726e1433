"""What every method of teaching a base answers; a method is one file with one subclass, named in ``registry``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from meddap_monai.diffusion.bases.prompts import PromptTable

if TYPE_CHECKING:
    from meddap_monai.diffusion.adapting.losses import Loss
    from meddap_monai.diffusion.adapting.trainable import Trainable
    from meddap_monai.diffusion.bases.noise import Objective
    from meddap_monai.diffusion.bases.schedulers import Sampling


class Common(Protocol):
    """What a method reads of the settings that all methods share."""

    @property
    def learning_rate(self) -> float:
        """Of the UNet's layers, or of the new words."""

    @property
    def text_learning_rate(self) -> float:
        """Of the text encoder's layers."""

    @property
    def rank_(self) -> int:
        """Inner width of the low-rank layers."""

    @property
    def alpha_(self) -> float:
        """Scale numerator of the low-rank layers."""

    @property
    def seed(self) -> int:
        """Of everything random."""


class Method(ABC):
    """One way to teach a base; its fields are its own settings, checked on construction.

    Attributes:
        defaults: what takes the place of a shared setting that is None: rank, clip_skip, flip, buckets.
        prior_weight: weight of the loss on prior images.
        full: the result is a whole base and not an adapter.
    """

    defaults: ClassVar[Mapping[str, Any]]
    prior_weight: float = 1.0
    full: bool = False

    @abstractmethod
    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Put what is trained into a frozen base.

        Args:
            pipeline: the base.
            common: shared settings, with every default filled in.
            wordings: class name -> its wording in the prompt table.
        """

    @property
    def sampling(self) -> Sampling | None:
        """How pictures are drawn with the result; None: as with the base."""
        return None

    @property
    def drawing(self) -> tuple[int, Sampling] | None:
        """How many latents the base draws per record in place of encoding its image, and how; None: none."""
        return None

    def loss(self, objective: Objective, unet: Any) -> Loss:
        """Return what is minimised; the loss of diffusion where a method has no other.

        Args:
            objective: noise and target of the base.
            unet: with what `prepare` put in.
        """
        from meddap_monai.diffusion.adapting.losses import Denoising

        return Denoising(objective)

    def training_prompt(self, table: PromptTable, class_name: str, adjective: str, template: int) -> str:
        """Return the training prompt of a class."""
        return table.prompt(class_name, adjective, template)

    def prior_words(self) -> list[str]:
        """Return the prompt of the prior images, or nothing where there are none."""
        return []

    def prior_records(self, pipeline: Any, folder: Path, seed: int, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Draw the prior images with the untouched base and return items for the latent cache.

        Args:
            pipeline: the base, before anything trainable is in it.
            folder: where the images are kept; those already there are not drawn again.
            seed: of the run.
            size: (height, width) in pixels.
        """
        return []
