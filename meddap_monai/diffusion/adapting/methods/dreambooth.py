"""DreamBooth (Ruiz et al. 2022, arXiv 2208.12242), as Repetto and de Leon used it: an identifier beside a class word.

Prior preservation trains on images that the untouched base draws for the class word alone, made once and kept. Full
training changes the whole UNet and yields a base; with LoRA it yields an adapter. Several classes at once (multi-class)
carry their own words as identifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from meddap_monai import store
from meddap_monai.core.constraints import Range, here, settings
from meddap_monai.diffusion.adapting.methods.method import Common, Method
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

    from meddap_monai.diffusion.adapting.trainable import Result, Trainable


@dataclass(frozen=True)
@settings("adapt#dreambooth")
class DreamBooth(Method):
    """DreamBooth, and what it adds to the common settings.

    Attributes:
        prompt: sentence of a training image; ``{identifier}`` and ``{class}`` are replaced.
        prior_prompt: sentence of a class image; ``{class}`` is replaced.
        identifier: a rare word, the same for all classes (single-class training); empty takes each class's own
            wording from the prompt table (multi-class training).
        class_word: the kind of thing.
        prior_images: class images to keep the base's idea of the class; 0 trains without prior preservation.
        prior_weight: weight of their loss.
        prior_steps: sampling steps per class image.
        guidance: guidance scale of the class images.
        full: train the whole UNet (the result is a base) instead of LoRA.
        text_encoder: train the text encoder too.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"rank": 4, "clip_skip": 0, "flip": False, "buckets": False}
    prompt: str = "image of a {identifier} {class}"
    prior_prompt: str = "image of a {class}"
    identifier: str = "sks"
    class_word: str = "ultrasound"
    prior_images: Annotated[int, Range(0, 100_000)] = 100
    prior_weight: Annotated[float, Range(0.0, 100.0)] = 1.0
    prior_steps: Annotated[int, Range(1, 1000)] = 24
    guidance: float = 7.5
    full: bool = False
    text_encoder: bool = True

    def __post_init__(self) -> None:
        if "{identifier}" not in self.prompt or "{class}" not in self.prompt:
            raise ConfigurationError(f"{here('prompt')}: {self.prompt!r} must contain {{identifier}} and {{class}}")

    def instance_prompt(self, wording: str) -> str:
        """Return the prompt of an image whose class has this wording."""
        text = self.prompt.replace("{identifier}", self.identifier or wording).replace("{class}", self.class_word)
        return " ".join(text.split())

    def class_prompt(self) -> str:
        """Return the prompt of the class images."""
        return " ".join(self.prior_prompt.replace("{class}", self.class_word).split())

    def training_prompt(self, table: PromptTable, class_name: str, adjective: str, template: int) -> str:
        """Return the instance prompt; the table gives the class's wording only."""
        return self.instance_prompt(table.classes.get(class_name, class_name))

    def prior_words(self) -> list[str]:
        """Return the prompt of the class images where prior preservation is on."""
        return [self.class_prompt()] if self.prior_images else []

    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Put trainable layers into the pipeline, or open its own weights for full training."""
        from meddap_monai.diffusion.adapters.targets import ATTENTION, TEXT_ATTENTION
        from meddap_monai.diffusion.adapting.trainable import Trainable, train_low_rank

        parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
        chosen = list(parts) if self.text_encoder else ["unet"]
        rates = {"unet": common.learning_rate, "text_encoder": common.text_learning_rate}
        if not self.full:
            sets = {name: ATTENTION if name == "unet" else TEXT_ATTENTION for name in chosen}
            return train_low_rank(parts, sets, common.rank_, common.alpha_, rates, common.seed)
        parameters, speed = {}, {}
        for name in chosen:
            parts[name].float()  # in 16 bit a step of usual size would be rounded away
            for key, parameter in parts[name].named_parameters():
                parameters[f"{name}/{key}"] = parameter.requires_grad_(True)
                speed[f"{name}/{key}"] = rates[name]

        def result(values: Mapping[str, torch.Tensor]) -> Result:
            return {key: value.detach().cpu() for key, value in values.items()}

        return Trainable(parameters, speed, self.text_encoder, result, full=True)

    def prior_records(self, pipeline: Any, folder: Path, seed: int, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Draw the class images once; see `Method.prior_records`."""
        import numpy as np

        from meddap_monai.core.records import pixel_hash
        from meddap_monai.core.seeds import derive_seed
        from meddap_monai.diffusion.bases.sample_pictures import draw_pictures, save_synthetic
        from meddap_monai.images.reading.opening import open_image

        prompt = self.class_prompt()
        items = []
        for number in range(self.prior_images):
            own = derive_seed(seed, "adapt/prior", number)
            facts = [prompt, own, size, self.prior_steps, self.guidance]
            path = folder / f"{number:05d}-{store.hash_configuration(facts)[:12]}.png"
            if not path.is_file():
                drawn = draw_pictures(pipeline, [prompt], [own], size, self.prior_steps, self.guidance)
                save_synthetic(path, drawn[0], prompt)
            items.append({"id": path.stem, "image": str(path), "sha256": pixel_hash(np.asarray(open_image(path)))})
        return items
