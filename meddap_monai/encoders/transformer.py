"""Vision transformers of the package transformers: how they are built, pooled and read from a local folder."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from meddap_monai import store
from meddap_monai.core.constraints import unknown
from meddap_monai.core.quiet import quiet
from meddap_monai.core.tensors import check_finite
from meddap_monai.encoders.networks import Builder
from meddap_monai.encoders.places import CONFIG, PREPROCESSOR, folder_sha256
from meddap_monai.errors import ConfigurationError

Channels = tuple[float, float, float]
State = dict[str, torch.Tensor]
IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Channels, Channels] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Family:
    """A class of transformers and its features.

    Attributes:
        model: name of the class.
        pooled: the output that is the features: ``pooler_output``, ``image_embeds``, or ``class_token`` after the last
            normalisation, where a pooler would be untrained.
        normalisation: mean and deviation of its image processor, for a folder without one.
        options: of the class.
    """

    model: str
    pooled: str = "pooler_output"
    normalisation: tuple[Channels, Channels] = IMAGENET
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> Any:
        """The class."""
        import transformers

        return getattr(transformers, self.model)


_VIT = Family("ViTModel", "class_token", HALF, {"add_pooling_layer": False})
FAMILIES = {
    "clip": Family("CLIPVisionModel", normalisation=CLIP),
    "clip_vision_model": Family("CLIPVisionModel", normalisation=CLIP),
    "dinov2": Family("Dinov2Model"),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel"),
    "dinov3_vit": Family("DINOv3ViTModel"),
    "vit": _VIT,
    "vit_mae": replace(_VIT, normalisation=IMAGENET),
}
"""Families by ``model_type``. ViT-MAE is its encoder as a plain ViT, because its own class hides patches at random."""


class PooledTransformer(nn.Module):
    """A vision transformer with a linear layer on its pooled features.

    Args:
        vision: model of transformers.
        pooled: see `Family`.
        classes: number of logits.
    """

    def __init__(self, vision: Any, pooled: str, classes: int) -> None:
        super().__init__()
        config = vision.config
        self.vision, self.pooled, self.side = vision, pooled, config.image_size
        self.classifier = nn.Linear(config.projection_dim if pooled == "image_embeds" else config.hidden_size, classes)
        self.asks = "interpolate_pos_encoding" in inspect.signature(vision.forward).parameters

    def extra_repr(self) -> str:
        """Say what leaves no trace in the shapes of tensors, such as the number of heads."""
        return json.dumps(self.vision.config.to_diff_dict(), sort_keys=True, default=str)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, classes) of images (B, 1 or 3, H, W); grey stands for all three colours."""
        other = self.asks and tuple(images.shape[-2:]) != (self.side, self.side)
        options = {"interpolate_pos_encoding": True} if other else {}
        found = self.vision(images.expand(-1, self.vision.config.num_channels, -1, -1), **options)
        pooled = found.last_hidden_state[:, 0] if self.pooled == "class_token" else getattr(found, self.pooled)
        return self.classifier(pooled)


def builder(family: Family, config: Callable[[], Any]) -> Builder:
    """Return the builder of a transformer at random weights.

    Args:
        family: its class.
        config: returns its configuration.
    """

    def build(classes: int, _channels: int, size: int) -> nn.Module:
        settings = config()
        if size % settings.patch_size:
            raise ConfigurationError(
                f"resolution: got {size}, expected a multiple of {settings.patch_size} for this transformer"
            )
        return PooledTransformer(family.type(settings, **family.options), family.pooled, classes)

    return build


def converted(family: Family, config: Any, state: State) -> State:
    """Return tensors under the names of the hub as those of `PooledTransformer`, in this release of transformers.

    Raises:
        ConfigurationError: tensors are missing, or have another shape.
    """
    return _loaded(family, None, config=config, state_dict=state)


@dataclass(frozen=True)
class SavedTransformer:
    """A folder that ``save_pretrained`` of transformers wrote. Only JSON and safetensors are read, no code, no pickle.

    Attributes:
        folder: with ``config.json``, ``model.safetensors`` and, best, ``preprocessor_config.json``.
    """

    folder: Path

    @property
    def family(self) -> Family:
        """The family that its ``config.json`` names.

        Raises:
            ConfigurationError: there is no such file, or the family is none of `FAMILIES`.
        """
        kind = str(self._document(CONFIG).get("model_type"))
        if kind not in FAMILIES:
            raise ConfigurationError(f"{self.folder / CONFIG}: {unknown('model_type', kind, list(FAMILIES))}")
        return FAMILIES[kind]

    def config(self) -> Any:
        """Return the configuration of the vision model.

        Raises:
            ConfigurationError: it is none of its family.
        """
        from transformers.utils import logging

        family = self.family
        try:
            with quiet(logging):
                return family.type.config_class.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:
            raise ConfigurationError(
                f"{self.folder / CONFIG}: is no configuration of {family.model} ({type(error).__name__}: {error}); "
                "save the model again by save_pretrained"
            ) from error

    @property
    def sha256(self) -> str:
        """Of the folder's files."""
        return folder_sha256(self.folder)

    def tensors(self) -> State:
        """Return the weights under the names of `PooledTransformer`.

        Raises:
            ConfigurationError: they are missing, damaged, no safetensors, or not those of ``config.json``.
        """
        if not any(self.folder.glob("*.safetensors")):
            raise ConfigurationError(
                f"{self.folder}: holds no .safetensors file, the only weights that are read here; load the model with "
                "transformers and save it again by save_pretrained"
            )
        try:
            for path in (*self.folder.glob("*.json"), *self.folder.glob("*.safetensors")):
                store.regular_file(path)
            return _loaded(self.family, self.folder, config=self.config(), use_safetensors=True, local_files_only=True)
        except (ConfigurationError, OSError) as error:
            raise ConfigurationError(f"{self.folder}: {error}") from error

    def normalisation(self) -> tuple[Channels, Channels]:
        """Return mean and deviation per channel of grey values in 0..1: of the preprocessor, else of the family.

        Raises:
            ConfigurationError: the preprocessor's are no three numbers, or a deviation is not above 0.
        """
        if not (self.folder / PREPROCESSOR).exists():
            return self.family.normalisation
        found = self._document(PREPROCESSOR)
        if not found.get("do_normalize", True):
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        scale = 255 * float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 255.0
        read = [found.get(key, own) for key, own in zip(_NORMALISATION, self.family.normalisation, strict=True)]
        try:
            mean, deviation = ((float(a) / scale, float(b) / scale, float(c) / scale) for a, b, c in read)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.folder / PREPROCESSOR}: {_NORMALISATION} are no three numbers") from error
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and min(deviation) > 0):
            raise ConfigurationError(f"{self.folder / PREPROCESSOR}: got image_std {deviation}, expected all above 0")
        return mean, deviation

    def side(self) -> int:
        """Return the side of its images in pixels: of the preprocessor, else of the configuration."""
        found = self._document(PREPROCESSOR) if (self.folder / PREPROCESSOR).exists() else {}
        size = found.get("crop_size") or found.get("size")
        if isinstance(size, dict):
            size = size.get("height") or size.get("shortest_edge")
        return int(size or self.config().image_size)

    def _document(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        advice = "expected a local folder that save_pretrained of transformers wrote"
        try:
            text = store.regular_file(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"encoder 'transformers:{self.folder}': {name} cannot be read ({error}); {advice}"
            ) from error
        return store.parse_json(text, str(path), ConfigurationError, advice)


_NORMALISATION = ("image_mean", "image_std")


def _loaded(family: Family, place: Path | None, **options: Any) -> State:
    from transformers.utils import logging

    try:
        with quiet(logging):
            model, found = family.type.from_pretrained(
                place, dtype=torch.float32, output_loading_info=True, **family.options, **options
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ConfigurationError(f"{family.model} cannot take these weights ({error})") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigurationError(f"{len(missing)} tensors of {family.model} are missing, such as {missing[0]}")
    check_finite(model.state_dict(), family.model, ConfigurationError)
    return {f"vision.{name}": tensor for name, tensor in model.state_dict().items()}
