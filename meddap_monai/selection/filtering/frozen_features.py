"""Features once: a frozen extractor turns images into (N, D) float32, cached for every later question.

Clustering, the centroid rule, the out-of-distribution guards, the copy check, FID and KID, and TensorBoard's projector
all read the same numbers. Extractors by name:

- ``filter``: the penultimate layer of the filter's own networks (trained on the real training images);
- ``vae`` or ``vae:<base folder>``: latents of the base's autoencoder, averaged to 4 x 4;
- ``clip:<folder>``: a CLIP vision tower saved by transformers;
- ``<network>:<file.safetensors>``: an encoder of `meddap_monai.encoders.registry` with these weights.

A TorchScript file is a program that may write files, so none is opened: weights are data, the network stands in code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.core.progress import progress
from meddap_monai.core.records import Record
from meddap_monai.core.tensors import check_finite, read_weights
from meddap_monai.encoders.registry import ENCODERS, build_network
from meddap_monai.errors import ConfigurationError, StageError
from meddap_monai.selection.filtering.crossfit import FilterPredictions, with_features
from meddap_monai.selection.filtering.filter_config import FilterConfig
from meddap_monai.selection.filtering.fitted import fit_filter
from meddap_monai.selection.pixels import read_squares

FILTER = "filter"
Extractor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class FeatureSet:
    """Features of N images.

    Attributes:
        per_fold: (K, N, D) float32 of unit length: as each network of the filter sees them; with any other extractor
            the same numbers K times (a view, no copies).
        joined: (N, E) float32 of unit length: one row per image.
    """

    per_fold: np.ndarray
    joined: np.ndarray


def for_rules(
    extractor: str,
    predicted: FilterPredictions,
    records: Sequence[Record],
    images: np.ndarray,
    path: Path,
    device: str = "cpu",
) -> FeatureSet:
    """Return the features that the rules look at, from the filter or from another extractor, and cache them.

    Args:
        extractor: see above.
        predicted: what the filter says about the images.
        records: N records.
        images: (N, C, H, W) uint8.
        path: ``.npy`` file of the cache.
        device: where an extractor runs.
    """
    if extractor == FILTER:
        save(path, predicted.joined, records, FILTER)
        return FeatureSet(predicted.features, predicted.joined)
    values = extract(extractor, records, images, path, device)
    return FeatureSet(np.broadcast_to(values, (len(predicted.features), *values.shape)), values)


def of_training(
    extractor: str,
    config: FilterConfig,
    training: Sequence[Record],
    everything: Sequence[Record],
    classes: Sequence[str],
    output: Path,
    seed: int,
) -> np.ndarray:
    """Return (M, D) float32 features of unit length of real training images, cached under ``<output>/features``.

    Args:
        extractor: see above; "filter" trains the filter's networks under ``<output>/filter`` first.
        config: of the filter.
        training: M full real training records.
        everything: all full real records, for the provenance guard.
        classes: names in the order of labels.
        output: folder of the stage.
        seed: of the run.
    """
    images = read_squares(training, config.resolution, config.channels, config.fit)
    path = output / "features" / "real.npy"
    if extractor != FILTER:
        return extract(extractor, training, images, path, config.device)
    fitted = fit_filter(config, training, images, everything, classes, output / "filter", seed)
    save(path, fitted.predicted.joined, training, FILTER)
    return fitted.predicted.joined


def extract(
    extractor: str, records: Sequence[Record], images: np.ndarray, path: Path | None = None, device: str = "cpu"
) -> np.ndarray:
    """Return (N, D) float32 features of unit length; read from `path` when it holds those of the same images.

    Args:
        extractor: see above, not "filter".
        records: N records.
        images: (N, C, H, W) uint8, theirs.
        path: ``.npy`` file of the cache; None does not cache.
        device: where the extractor runs.

    Raises:
        ConfigurationError: an unknown extractor, or its file cannot be used.
    """
    if path is not None:
        cached = load(path, records, extractor)
        if cached is not None:
            return cached
    network = build_extractor(extractor, images.shape[1], images.shape[-1], device)
    found = []
    for start in progress(range(0, len(images), 64), desc="features", unit="batch", disable=len(images) < 500):
        batch = torch.from_numpy(images[start : start + 64]).to(device).float() / 255
        with torch.inference_mode():
            found.append(network(batch).flatten(1).float().cpu())
    joined = torch.cat(found)
    check_finite({"an image": joined}, f"features of {extractor!r}", ConfigurationError)
    values = torch.nn.functional.normalize(joined).numpy()
    if path is not None:
        save(path, values, records, extractor)
    return values


def build_extractor(name: str, channels: int, size: int, device: str = "cpu") -> Extractor:
    """Return a function from images (B, C, H, W) float32 in 0 to 1 to features (B, ...).

    Raises:
        ConfigurationError: an unknown name (with the forms that are known), or a file that cannot be used.
    """
    kind, _, place = name.partition(":")
    try:
        if kind == "vae":
            return _vae(place or str(resources.find("data/base")), device)
        if kind == "clip" and place:
            return _clip(place, device)
        if kind in ENCODERS and place:
            return _named(kind, place, channels, size, device)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"features: extractor {name!r} cannot be used ({error}); expected a complete local file or folder"
        ) from error
    why = "a TorchScript file is a program and is not run" if kind == "torchscript" else f"unknown extractor {name!r}"
    raise ConfigurationError(
        f"features: {why}; expected filter, vae[:<base>], clip:<folder> or <network>:<file.safetensors>"
    )


def _vae(base: str, device: str) -> Extractor:
    from diffusers import AutoModel

    coder = AutoModel.from_pretrained(base, subfolder="vae", local_files_only=True).to(device).eval()

    def latents(images: torch.Tensor) -> torch.Tensor:
        wide = images if images.shape[1] == coder.config.in_channels else images.mean(dim=1, keepdim=True)
        wide = wide.expand(-1, coder.config.in_channels, -1, -1)
        found = coder.encode(wide * 2 - 1)
        values = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latents
        return torch.nn.functional.adaptive_avg_pool2d(values, 4)

    return latents


def _clip(folder: str, device: str) -> Extractor:
    from transformers import CLIPVisionModel

    tower: Any = CLIPVisionModel.from_pretrained(folder, local_files_only=True)
    tower.to(device).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=device)[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=device)[:, None, None]
    side = tower.config.image_size

    def pooled(images: torch.Tensor) -> torch.Tensor:
        sized = torch.nn.functional.interpolate(images.expand(-1, 3, -1, -1), size=(side, side), mode="bilinear")
        return tower(pixel_values=(sized - mean) / deviation).pooler_output

    return pooled


def _named(kind: str, path: str, channels: int, size: int, device: str) -> Extractor:

    state = read_weights(path, ConfigurationError)
    matrices = [value for key, value in state.items() if key.endswith("weight") and value.ndim == 2]
    if not matrices:
        raise ValueError("no linear layer in the file")
    network = build_network(kind, len(matrices[-1]), channels, size)
    network.load_state_dict(state)
    network = network.to(device).eval()
    return lambda images: with_features(network, images)[1]


def save(path: Path, values: np.ndarray, records: Sequence[Record], extractor: str) -> None:
    """Write a feature matrix and, beside it, whose rows they are.

    Args:
        path: ``.npy`` file.
        values: (N, D) float32.
        records: N full records, in the order of the rows.
        extractor: name of the extractor.
    """
    with store.atomic_path(path, needs=values.nbytes) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
    store.write_json(path.with_suffix(".json"), _document(records, extractor) | {"shape": list(values.shape)})


def load(path: Path, records: Sequence[Record], extractor: str) -> np.ndarray | None:
    """Return cached features of exactly these images and this extractor, (N, D) float32, or None."""
    beside = path.with_suffix(".json")
    if not (path.is_file() and beside.is_file()):
        return None
    try:
        found = store.read_json(beside)
        values = np.load(path, allow_pickle=False)
    except (StageError, OSError, ValueError, EOFError):
        return None  # not whole: the features are computed again
    wanted = _document(records, extractor) | {"shape": list(values.shape)}
    same = all(found.get(key) == value for key, value in wanted.items())
    return values if same and values.dtype == np.float32 and np.isfinite(values).all() else None


def _document(records: Sequence[Record], extractor: str) -> dict[str, object]:
    return {
        "extractor": extractor,
        "ids": [record["id"] for record in records],
        "sha256": [record["sha256"] for record in records],
    }
