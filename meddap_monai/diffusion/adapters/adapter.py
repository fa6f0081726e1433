"""The adapter as an object: the only door through which adapter weights reach a base.

An own adapter folder must name the base it was trained on and carry the hash of its own weights; a foreign file must
be one complete known target set with fitting shapes, and is recorded as ``base: unverified``. Every adapter must
change the base's output. Taking it out gives the base back bit for bit.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meddap_monai.diffusion.adapters import injection, tokens
from meddap_monai.diffusion.adapters.effect import check_effect
from meddap_monai.diffusion.adapters.file import (
    CARD,
    EMBEDDINGS,
    WEIGHTS,
    adapter_path,
    find_file,
    foreign_hash,
    read_card,
    read_config,
    read_tensors,
)
from meddap_monai.diffusion.adapters.formats import AdapterWeights, read_layout
from meddap_monai.diffusion.adapters.targets import COMPONENTS, recognise
from meddap_monai.diffusion.bases.base import base_of
from meddap_monai.errors import BadAdapter

MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Adapter:
    """One adapter inside a pipeline.

    Attributes:
        name: under which its layers stand in the pipeline.
        path: folder or file it came from.
        sets: model part -> complete target set its layers are.
        parameters: trained values.
        rank: largest rank; 0 for textual inversion.
        base: name of the base it was trained on, or "unverified".
        effect: largest change of the model's output on a fixed input, > 0.
        sha256: of the weights file.
        card: ``adapter.json``, empty for a foreign file.
    """

    name: str
    path: Path
    sets: dict[str, str]
    parameters: int
    rank: int
    base: str
    effect: float
    sha256: str
    card: dict[str, Any] = field(default_factory=dict)

    def prompt(self, class_name: str) -> str | None:
        """Return the prompt the adapter was trained with for a class, or None where it does not say."""
        return (self.card.get("class_prompts") or {}).get(class_name)


def parts_of(pipeline: Any) -> dict[str, nn.Module]:
    """Return the model parts that can carry an adapter."""
    return {name: part for name in COMPONENTS if (part := getattr(pipeline, name, None)) is not None}


def loaded(pipeline: Any) -> dict[str, Adapter]:
    """Return name -> adapter of a pipeline, in loading order."""
    return pipeline.__dict__.setdefault("_meddap_adapters", {})


# ------------------------------------------------------------------------------------------------------------- load
def load_adapter(pipeline: Any, folder: Path | str, weight: float = 1.0, name: str | None = None) -> Adapter:
    """Load an adapter into a pipeline, beside those already there, or leave the pipeline as it was.

    Args:
        pipeline: from ``load_base``.
        folder: an adapter folder of this package, "embedded" for the demo's adapter, or a foreign ``.safetensors`` file
            (diffusers, peft, kohya-ss or MEDDAP's attention processors) or a folder with one.
        weight: how strongly its weight change acts, 0 to `MAX_WEIGHT`; adapters add up.
        name: for `set_weights` and `unload_adapter`; from the path when not given.

    Raises:
        BadAdapter: the file or folder is damaged, incomplete, not finite, of another base, or without an effect.
    """
    path = adapter_path(folder)
    name = name or _free_name(pipeline, path)
    if name in loaded(pipeline):
        raise BadAdapter(f"{path}: an adapter named {name!r} is loaded already; unload it or choose another name")
    _check_weight(weight, name)
    if (path / CARD).is_file():
        adapter = _load_own(pipeline, path, name)
    else:
        adapter = _load_foreign(pipeline, path, name)
    loaded(pipeline)[name] = adapter
    set_weights(pipeline, {name: weight})
    return adapter


def _load_own(pipeline: Any, folder: Path, name: str) -> Adapter:
    card = read_card(folder)
    check_base(pipeline, card, folder)
    facts = {"base": str(card["base"]), "card": card, "sha256": card["weights_sha256"]}
    if card["rank"] is None:
        vectors, _ = read_tensors(folder / EMBEDDINGS)
        return _with_tokens(pipeline, folder, name, vectors, facts)
    weights = read_weights(pipeline, folder / WEIGHTS)
    for key, found in (
        ("parameters", weights.parameters),
        ("rank", max(weights.ranks)),
        ("alpha", max(weights.alphas)),
    ):
        if card[key] != found:
            raise BadAdapter(
                f"{folder / CARD}: {key} is {card[key]}, the weights have {found}; get the whole folder again"
            )
    return _with_layers(pipeline, folder, name, weights, facts)


def _load_foreign(pipeline: Any, path: Path, name: str) -> Adapter:
    file = find_file(path)
    weights = read_weights(pipeline, file)
    warnings.warn(
        f"{file}: names no base, so it was checked by shapes and target set only; recorded as base: unverified",
        stacklevel=3,
    )
    return _with_layers(pipeline, path, name, weights, {"base": "unverified", "sha256": foreign_hash(file)})


def read_weights(pipeline: Any, file: Path) -> AdapterWeights:
    """Read an adapter file for the architecture of `pipeline` and check it is one complete target set per part.

    Raises:
        BadAdapter: see `load_adapter`.
    """
    return fit_weights(pipeline, *read_tensors(file), file)


def fit_weights(
    pipeline: Any, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str], file: Path
) -> AdapterWeights:
    """Do what `read_weights` does with what was read from `file` already."""
    parts = parts_of(pipeline)
    weights = read_layout(tensors, header, parts, str(file), read_config(file))
    for part, changes in weights.parts.items():
        try:
            recognise(parts[part], part, changes)
        except BadAdapter as error:
            raise BadAdapter(f"{file}: {error}") from error
    return weights


def _with_layers(pipeline: Any, path: Path, name: str, weights: AdapterWeights, facts: Mapping[str, Any]) -> Adapter:
    _check_changes(weights, path)
    parts = parts_of(pipeline)
    try:
        for part, changes in weights.parts.items():
            injection.inject(parts[part], changes, name)
        effect = check_effect({part: parts[part] for part in weights.parts}, name, str(path))
    except BaseException:
        _remove_layers(pipeline, name)
        raise
    sets = {part: recognise(parts[part], part, changes) for part, changes in weights.parts.items()}
    return Adapter(name, path, sets, weights.parameters, max(weights.ranks), effect=effect, **facts)


def _check_changes(weights: AdapterWeights, path: Path) -> None:
    """Raise when a module's change is exactly zero.

    Text encoders may have such modules: the layers that clip skip leaves out get no gradient. Not all may be.
    """
    for part, changes in weights.parts.items():
        idle = [name for name, change in changes.items() if not change.change().any()]
        if idle and (part == "unet" or len(idle) == len(changes)):
            raise BadAdapter(
                f"{path}: {len(idle)} of {len(changes)} modules of the {part} change nothing, such as {idle[0]!r} (its "
                "product is 0), expected a trained adapter; train it again"
            )


def _with_tokens(
    pipeline: Any, path: Path, name: str, vectors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
) -> Adapter:
    tokens.add_tokens(pipeline, vectors, name, str(path))
    try:
        effect = tokens.check_effect(pipeline, vectors, str(path))
    except BaseException:
        tokens.remove_tokens(pipeline, name)
        raise
    count = sum(vector.numel() for vector in vectors.values())
    return Adapter(name, path, {"text_encoder": "tokens"}, count, 0, effect=effect, **facts)


def check_base(pipeline: Any, card: Mapping[str, Any], where: Path | str) -> None:
    """Raise `BadAdapter` unless `pipeline` is the base that the card names."""
    found = base_of(pipeline).sha256
    if found != card["base_sha256"]:
        raise BadAdapter(
            f"{where}: trained on the base {card['base']!r} ({str(card['base_sha256'])[:12]}...), the pipeline holds "
            f"{str(pipeline.config.get('_name_or_path'))!r} ({found[:12]}...); load it on its own base"
        )


def _free_name(pipeline: Any, path: Path) -> str:
    stem = "".join(letter if letter.isalnum() else "_" for letter in path.stem) or "adapter"
    taken = set(loaded(pipeline))
    return next(name for name in (stem, *(f"{stem}_{number}" for number in range(2, 10_000))) if name not in taken)


# --------------------------------------------------------------------------------------------- weigh, unload, fuse
def set_weights(pipeline: Any, weights: Mapping[str, float]) -> None:
    """Set how strongly loaded adapters act; those not named keep their weight. 0 switches one off.

    Raises:
        BadAdapter: a name that is not loaded or a weight out of range; nothing was set.
    """
    for name, weight in weights.items():
        if name not in loaded(pipeline):
            raise BadAdapter(f"no adapter {name!r} is loaded; loaded are {sorted(loaded(pipeline)) or 'none'}")
        _check_weight(weight, name)
    for name, weight in weights.items():
        for part in parts_of(pipeline).values():
            injection.set_weight(part, name, weight)


def _check_weight(weight: float, name: str) -> None:
    if not 0 <= weight <= MAX_WEIGHT:
        raise BadAdapter(f"{name}: weight {weight}, expected 0 or more and at most {MAX_WEIGHT:g}")


def unload_adapter(pipeline: Any, name: str | None = None) -> None:
    """Take one adapter out, or all of them; the base is bit for bit what it was.

    Raises:
        BadAdapter: a name that is not loaded.
    """
    names = list(loaded(pipeline)) if name is None else [name]
    for item in reversed(names):
        if item not in loaded(pipeline):
            raise BadAdapter(f"no adapter {item!r} is loaded; loaded are {sorted(loaded(pipeline)) or 'none'}")
        _remove_layers(pipeline, item)
        del loaded(pipeline)[item]


def _remove_layers(pipeline: Any, name: str) -> None:
    tokens.remove_tokens(pipeline, name)
    for part in parts_of(pipeline).values():
        injection.remove(part, name)


@contextlib.contextmanager
def fuse(pipeline: Any) -> Iterator[Any]:
    """Run with all loaded adapters folded into the base's weights, for speed; copies are put back afterwards.

    Inside, do not load, weigh or unload adapters.
    """
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    taken: list[tuple[nn.Module, dict[str, nn.Module]]] = []
    try:
        with torch.no_grad():
            for part in parts_of(pipeline).values():
                for _, base, change in injection.fused_layers(part):
                    copies.append((base.weight, base.weight.detach().clone()))
                    base.weight.copy_(base.weight.float() + change)
                taken.append((part, injection.unwrap(part)))
        yield pipeline
    finally:
        with torch.no_grad():
            for weight, copy in copies:
                weight.copy_(copy)
        for part, layers in taken:
            injection.rewrap(part, layers)
