"""Open a base: the embedded one, an ordinary Stable Diffusion folder, or a hub id, all through one door."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.errors import BadBase, ConfigurationError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

EMBEDDED = "embedded"
_LAYOUT = (
    "model_index.json, tokenizer/, text_encoder/, vae/, unet/ and scheduler/ "
    "(what StableDiffusionPipeline.save_pretrained writes)"
)
_PARTS = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")


def load_base(
    name_or_path: str | Path = EMBEDDED, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> StableDiffusionPipeline:
    """Load a base as a `StableDiffusionPipeline` in evaluation mode, frozen, without a safety checker.

    Args:
        name_or_path: "embedded", a Stable Diffusion 1.x/2.x folder, or a hub id such as
            "CompVis/stable-diffusion-v1-4", which must be in the local cache when there is no network.
        dtype: floating-point type of the weights; float32 when not given.
        device: where to put it.

    Raises:
        BadBase: there is no such folder, or it lacks parts; the message states the layout needed.
    """
    source = base_folder(name_or_path)
    with _quiet() if isinstance(source, Path) else contextlib.nullcontext():
        pipeline = _open(source, name_or_path, dtype)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if part is not None:
            part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and notes; a download, which no folder needs, keeps its bar."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bars in before:
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()


def _open(source: Path | str, name_or_path: str | Path, dtype: torch.dtype | None) -> Any:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    try:
        for path in Path(source).rglob("*") if isinstance(source, Path) else ():
            if not path.is_dir():
                store.regular_file(path)
        plain = {"dtype": dtype or torch.float32, "low_cpu_mem_usage": False}
        if is_xl(source):
            return StableDiffusionXLPipeline.from_pretrained(source, **plain)
        return StableDiffusionPipeline.from_pretrained(
            source, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **plain
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise BadBase(
            f"{name_or_path}: cannot be opened as a base: {error}; expected a folder with {_LAYOUT}"
        ) from error


def base_folder(name_or_path: str | Path) -> Path | str:
    """Return the folder of a base, or the unchanged name when it is a hub id.

    Raises:
        BadBase: a folder that is missing or not in the Stable Diffusion layout, or an embedded base that is not there.
    """
    if str(name_or_path) == EMBEDDED:
        try:
            folder = resources.find("data/base")
        except ConfigurationError as error:
            raise BadBase(
                f"the embedded base is not installed: {error}. Or make one: meddap pretrain --config configs/base.yaml"
            ) from error
    else:
        folder = Path(name_or_path)
        if not folder.exists() and _is_hub_id(str(name_or_path)):
            return str(name_or_path)
    missing = [name for name in ("model_index.json", *_PARTS) if not (folder / name).exists()]
    if missing:
        raise BadBase(f"base {folder}: {', '.join(missing)} missing; expected a folder with {_LAYOUT}")
    return folder


def is_xl(name_or_path: str | Path) -> bool:
    """Tell whether a base folder is Stable Diffusion XL by its ``model_index.json``; a hub id by its name."""
    index = Path(name_or_path) / "model_index.json"
    if not index.is_file():
        return "xl" in str(name_or_path).lower()
    return "XL" in str(store.read_json(index, BadBase, "get the whole base again").get("_class_name", ""))


def base_hash(name_or_path: str | Path) -> str:
    """Return one hash of a base's weights and vocabulary; adapters carry it.

    Covers every ``.safetensors``, ``config.json`` and tokenizer file by its path inside the folder, so a change of
    ``base.json``, the card or the pictures leaves it as it is. A hub id is hashed by its name.
    """
    folder = base_folder(name_or_path)
    if isinstance(folder, str):
        return store.sha256_text(f"hub:{folder}")
    names = sorted(
        path.relative_to(folder).as_posix()
        for part in ("tokenizer", "text_encoder", "vae", "unet", "tokenizer_2", "text_encoder_2")
        for path in (folder / part).rglob("*")
        if path.suffix in {".safetensors", ".json", ".txt", ".bin"} and not path.name.startswith(".")
    )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{store.sha256_file(folder / name)}\n".encode())
    return digest.hexdigest()


def base_card(name_or_path: str | Path = EMBEDDED) -> dict[str, Any]:
    """Return ``base.json`` of a base, or an empty mapping for one that carries none."""
    folder = base_folder(name_or_path)
    path = Path(folder) / "base.json"
    return store.read_json(path, BadBase, "get the whole base again") if path.is_file() else {}


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(part and not part.startswith(".") for part in parts)
