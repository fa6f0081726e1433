"""Open a base: the embedded one, an ordinary Stable Diffusion folder, or a hub id, all through one door."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.quiet import quiet
from meddap_monai.diffusion.bases.hub import hub_sentence, one_sentence, quiet_hub
from meddap_monai.diffusion.bases.words import Words
from meddap_monai.errors import BadBase, ConfigurationError
from meddap_monai.images import provenance

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

EMBEDDED = "embedded"
_LAYOUT = (
    "model_index.json, tokenizer/, text_encoder/, vae/, unet/ and scheduler/ "
    "(what StableDiffusionPipeline.save_pretrained writes)"
)
_PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")
_AGAIN = "get the whole base again"
_KEPT = "_meddap_base"


@dataclass(frozen=True)
class Base:
    """A base that was opened: each fact about it is read when first asked for, and kept.

    Attributes:
        name: as it was given: "embedded", a folder or a hub id.
        folder: in the Stable Diffusion layout; None for a hub id.
    """

    name: str
    folder: Path | None

    @property
    def source(self) -> Path | str:
        """What diffusers opens: the folder, or the hub id."""
        return self.folder or self.name

    @cached_property
    def sha256(self) -> str:
        """One hash of weights and vocabulary; adapters carry it.

        Covers every ``.safetensors``, ``config.json`` and tokenizer file by its path inside the folder, so a change of
        ``base.json``, the card or the pictures leaves it as it is. A hub id is hashed by its name.
        """
        if self.folder is None:
            return store.sha256_text(f"hub:{self.name}")
        names = sorted(
            path.relative_to(self.folder).as_posix()
            for part in ("tokenizer", "text_encoder", "vae", "unet", "tokenizer_2", "text_encoder_2")
            for path in (self.folder / part).rglob("*")
            if path.suffix in {".safetensors", ".json", ".txt", ".bin"} and not path.name.startswith(".")
        )
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{store.sha256_file(self.folder / name)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """``base.json``; an empty mapping where there is none."""
        path = Path(self.source) / "base.json"
        return store.read_json(path, BadBase, _AGAIN) if path.is_file() else {}

    @property
    def words(self) -> Words:
        """The words that say facts in its prompts, see `bases.words`; empty where it knows none."""
        found: Words = self.card.get("words") or {}
        return found

    @cached_property
    def training_images(self) -> dict[str, str]:
        """Pixel hashes and fingerprints of the images it has seen; see `provenance.training_images`."""
        return provenance.training_images(self.source)

    @property
    def train_hashes(self) -> frozenset[str]:
        """Pixel hashes of the images it has seen."""
        return frozenset(self.training_images)

    @property
    def distilled(self) -> Path | None:
        """The adapter beside its weights with which it draws in few steps; None where there is none."""
        path = Path(self.source) / "distilled"
        return path if (path / "adapter.json").is_file() else None

    @property
    def is_xl(self) -> bool:
        """Whether it is Stable Diffusion XL by its ``model_index.json``; a hub id by its name."""
        if self.folder is None:
            return "xl" in self.name.lower()
        return "XL" in str(store.read_json(self.folder / "model_index.json", BadBase, _AGAIN).get("_class_name", ""))

    @cached_property
    def prediction_type(self) -> str:
        """What its UNet says: "epsilon", "v_prediction" or "sample"."""
        return str(self._part("scheduler").get("prediction_type", "epsilon"))

    @cached_property
    def resolution(self) -> int:
        """Side in pixels of its pictures: as the card says, else by the sizes of UNet and autoencoder."""
        if told := self.card.get("resolution"):
            return int(told)
        sample, levels = self._part("unet")["sample_size"], self._part("vae")["block_out_channels"]
        return int((sample if isinstance(sample, int) else max(sample)) * 2 ** (len(levels) - 1))

    def _part(self, name: str) -> dict[str, Any]:
        """Return the configuration of a part; that of a hub id from the local cache or the network."""
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        reader: Any = {"scheduler": DDIMScheduler, "unet": UNet2DConditionModel, "vae": AutoencoderKL}[name]
        try:
            with quiet_hub():
                found: dict[str, Any] = reader.load_config(self.source, subfolder=name)
        except (OSError, ValueError) as error:
            raise _bad(self, error) from error
        return found


def open_base(name: str | Path | Base = EMBEDDED) -> Base:
    """Find a base and return it as one object; a `Base` is returned as it is.

    Args:
        name: "embedded", a Stable Diffusion folder, or a hub id such as "CompVis/stable-diffusion-v1-4".

    Raises:
        BadBase: a folder that is missing or not in the Stable Diffusion layout, or an embedded base that is not there.
    """
    if isinstance(name, Base):
        return name
    if str(name) == EMBEDDED:
        try:
            folder = resources.find("data/base")
        except ConfigurationError as error:
            raise BadBase(
                f"the embedded base is not installed: {error}. Or make one: meddap pretrain --config configs/base.yaml"
            ) from error
    else:
        folder = Path(name)
        if not folder.exists() and _is_hub_id(str(name)):
            return Base(str(name), None)
    missing = [part for part in ("model_index.json", *_PARTS) if not (folder / part).exists()]
    if missing:
        raise BadBase(f"base {folder}: {', '.join(missing)} missing; expected a folder with {_LAYOUT}")
    return Base(str(name), folder)


def base_of(pipeline: Any) -> Base:
    """Return the base that a pipeline was loaded from, the same object each time."""
    known: Base | None = pipeline.__dict__.get(_KEPT)
    if known is None:
        known = pipeline.__dict__[_KEPT] = open_base(pipeline.config["_name_or_path"])
    return known


def load_base(
    base: str | Path | Base = EMBEDDED, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> StableDiffusionPipeline:
    """Load a base as a `StableDiffusionPipeline` in evaluation mode, frozen, without a safety checker.

    Args:
        base: see `open_base`; a hub id must be in the local cache when there is no network.
        dtype: floating-point type of the weights; float32 when not given.
        device: where to put it.

    Raises:
        BadBase: there is no such folder, or it lacks parts; the message states the layout needed.
    """
    base = open_base(base)
    with _quiet(bars=base.folder is None):
        pipeline = _load(base, dtype)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if part is not None:
            part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.__dict__[_KEPT] = base
    return pipeline.to(device)


@contextlib.contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Without the libraries' notes, and without their progress bars unless `bars`: a download keeps its own."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    with quiet(of_diffusers, of_transformers, bars=bars), quiet_hub():
        yield


def _load(base: Base, dtype: torch.dtype | None) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    try:
        for path in base.folder.rglob("*") if base.folder else ():
            if not path.is_dir():
                store.regular_file(path)
        plain = {"dtype": dtype or torch.float32, "low_cpu_mem_usage": False}
        if base.is_xl:
            return StableDiffusionXLPipeline.from_pretrained(base.source, **plain)
        return StableDiffusionPipeline.from_pretrained(
            base.source, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **plain
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise _bad(base, error) from error


def _bad(base: Base, error: Exception) -> BadBase:
    """Return the one sentence about a base that cannot be opened."""
    if base.folder is None:
        return BadBase(hub_sentence(base.name, error))
    return BadBase(f"{base.name}: cannot be opened as a base: {one_sentence(error)}; expected a folder with {_LAYOUT}")


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(part and not part.startswith(".") for part in parts)
