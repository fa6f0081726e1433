"""Look at adapters, check them, convert them and melt them into a base: what ``meddap adapter`` does."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddap_monai import store
from meddap_monai.core.constraints import check_choice
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.file import (
    CARD,
    EMBEDDINGS,
    WEIGHTS,
    adapter_path,
    find_file,
    read_card,
    read_tensors,
    write_tensors,
)
from meddap_monai.diffusion.adapters.formats import AdapterWeights, to_diffusers, to_kohya
from meddap_monai.diffusion.adapters.targets import recognise
from meddap_monai.diffusion.bases.architectures import NAMES, meta_architecture
from meddap_monai.diffusion.bases.base import EMBEDDED, Base, load_base, open_base
from meddap_monai.errors import BadAdapter, BadBase, ForeignOutput
from meddap_monai.images import provenance

WRITERS = {"diffusers": to_diffusers, "kohya": to_kohya}
_FACTS = (
    "classes", "class_prompts", "steps", "trained_steps", "batch", "learning_rate", "resolution", "images",
    "validation_loss", "clip_skip", "precision", "prediction_type", "seed",
)  # fmt: skip


def read_any(path: Path | str, base: str | Path | Base | None = None) -> tuple[AdapterWeights, Any, str]:
    """Read low-rank weights for a base, or for the first architecture that they fit.

    Args:
        path: adapter folder or file.
        base: name or folder of a base; when not given an own adapter's base is tried, then the full-size families.

    Returns:
        Weights, the pipeline or architecture they fit, and its name.

    Raises:
        BadAdapter: they fit none; the message says why for each.
    """
    path = adapter_path(path)
    own = (path / CARD).is_file()
    known = base_of_card(read_card(path)) if own else None
    file = path / WEIGHTS if own else find_file(path)
    tensors, header = read_tensors(file)
    reasons = []
    for name in [base] if base is not None else [*([known] if known else []), *NAMES, "embedded"]:
        try:
            model = meta_architecture(str(name)) if str(name) in NAMES else load_base(name)
            return adapters.fit_weights(model, tensors, header, file), model, NAMES.get(str(name), str(name))
        except (BadBase, BadAdapter) as error:
            reasons.append(f"{name}: {error}")
    raise BadAdapter(f"{file}: fits none of the bases tried; name its own with --base. " + "; ".join(reasons))


def base_of_card(card: dict[str, Any]) -> str | None:
    """Return the base that a card names where it is on this machine; a stranger's card starts no download."""
    name = str(card["base"])
    return name if name == EMBEDDED or Path(name).is_dir() else None


def _base_of(path: Path | str) -> str:
    """Return the base an own adapter names; the embedded one for a foreign file, which names none."""
    path = adapter_path(path)
    found = base_of_card(read_card(path)) if (path / CARD).is_file() else EMBEDDED
    if found is None:
        raise BadBase(f"{path}: its base is not on this machine; name it with --base")
    return found


def inspect_adapter(path: Path | str, base: str | Path | Base | None = None) -> dict[str, Any]:
    """Return what an adapter is: method, rank, alpha, modules, parameters, their share of the UNet, training facts."""
    path = adapter_path(path)
    card = read_card(path) if (path / CARD).is_file() else {}
    facts: dict[str, Any] = {"path": str(path), "method": card.get("method", "unknown")}
    if card and card["rank"] is None:
        vectors, _ = read_tensors(path / EMBEDDINGS)
        facts |= {"words": {word: vector.numel() for word, vector in vectors.items()}}
        facts |= {"parameters": sum(vector.numel() for vector in vectors.values()), "base": card["base"]}
    else:
        weights, model, name = read_any(path, base)
        facts |= _weights_facts(weights, model) | {"base": card.get("base", f"unverified (fits {name})")}
    facts |= {name: card[name] for name in _FACTS if name in card}
    return facts


def _weights_facts(weights: AdapterWeights, model: Any) -> dict[str, Any]:
    whole = sum(parameter.numel() for name, parameter in model.unet.named_parameters() if ".lora_" not in name)
    parts = {
        part: {
            "targets": recognise(getattr(model, part), part, changes),
            "modules": len(changes),
            "parameters": sum(change.parameters for change in changes.values()),
        }
        for part, changes in weights.parts.items()
    }
    on_unet = parts.get("unet", {}).get("parameters", 0)
    return {
        "layout": weights.layout,
        "rank": weights.ranks if len(weights.ranks) > 1 else weights.ranks[0],
        "alpha": weights.alphas if len(weights.alphas) > 1 else weights.alphas[0],
        "parts": parts,
        "parameters": weights.parameters,
        "share_of_unet": f"{on_unet / whole:.4%} of {whole:,}",
    }


def verify_adapter(path: Path | str, base: str | Path | Base | None = None) -> adapters.Adapter:
    """Load an adapter on its base, which checks everything, and take it out again.

    Args:
        path: adapter folder or file.
        base: name or folder; an own adapter's base when not given.

    Raises:
        BadAdapter: see ``load_adapter``.
    """
    pipeline = load_base(base or _base_of(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = adapters.load_adapter(pipeline, path)
    adapters.unload_adapter(pipeline)
    return adapter


def convert_adapter(path: Path | str, output: Path | str, to: str, base: str | Path | Base | None = None) -> Path:
    """Write an adapter's weights in another layout, with the same effect.

    Args:
        path: adapter folder or file in any known layout.
        output: the new ``.safetensors`` file; never overwritten.
        to: "diffusers" or "kohya".
        base: see `read_any`.

    Raises:
        ForeignOutput: `output` exists.
    """
    check_choice(to, WRITERS, "--to")
    output = Path(output)
    if output.exists():
        raise ForeignOutput(f"{output}: exists already; choose another name")
    weights, _, _ = read_any(path, base)
    tensors, header = WRITERS[to](weights)
    write_tensors(output, tensors, header)
    return output


def merge_adapters(
    paths: Sequence[Path | str],
    output: Path | str,
    base: str | Path | Base | None = None,
    weights: Sequence[float] = (),
) -> Path:
    """Write a base with adapters merged into its weights: an ordinary Stable Diffusion folder.

    Args:
        paths: adapter folders or files.
        output: the new folder; it must not exist.
        base: name or folder; the first adapter's when not given.
        weights: one per adapter; all 1 when empty.

    Raises:
        ForeignOutput: `output` exists.
        BadAdapter: an adapter does not load or only adds words, or the numbers of weights and adapters differ.
    """
    output = Path(output)
    if output.exists():
        raise ForeignOutput(f"{output}: exists already; choose another folder")
    weights = list(weights) or [1.0] * len(paths)
    if len(weights) != len(paths):
        raise BadAdapter(f"{len(paths)} adapters but {len(weights)} weights, expected one weight for each")
    base = open_base(base or _base_of(paths[0]))
    pipeline = load_base(base)
    result: Any = load_base(base)
    card = base.card | _load_all(pipeline, paths, weights, base.card)
    saw = [base.training_images, *(provenance.training_images(adapter_path(path)) for path in paths)]
    with adapters.fuse(pipeline):
        for name, part in adapters.parts_of(pipeline).items():
            getattr(result, name).load_state_dict(part.state_dict())
    with store.atomic_folder(output) as temporary:
        result.save_pretrained(temporary, safe_serialization=True)
        store.write_json(temporary / "base.json", card | {"sha256": open_base(temporary).sha256})
        provenance.write_train_hashes(temporary, [], inherited=provenance.together(*saw))
    return output


def _load_all(pipeline: Any, paths: Sequence[Path | str], weights: Sequence[float], card: dict[str, Any]) -> dict:
    """Load every adapter and return what the merged base's card says about them."""
    merged: list[dict[str, Any]] = []
    prompts, skip = dict(card.get("class_prompts") or {}), int(card.get("clip_skip") or 0)
    for path, weight in zip(paths, weights, strict=True):
        found = adapters.load_adapter(pipeline, path, weight)
        if not found.rank:
            raise BadAdapter(f"{path}: new words stand in the vocabulary and not in weights, so they cannot be merged")
        merged.append({"adapter": found.path.name, "sha256": found.sha256, "weight": weight})
        prompts |= found.card.get("class_prompts") or {}
        skip = max(skip, int(found.card.get("clip_skip") or 0))
    return {"merged": merged, "class_prompts": prompts, "clip_skip": skip}
