"""Adapters on disk: opened as from a stranger - limits, structure, values; no code is run - and written."""

import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from meddap_monai import store
from meddap_monai.core import resources
from meddap_monai.diffusion.adapters.formats import AdapterWeights, to_diffusers
from meddap_monai.diffusion.adapters.scale import CONFIG
from meddap_monai.errors import BadAdapter

WEIGHTS = "adapter.safetensors"
CARD = "adapter.json"
EMBEDDINGS = "embeddings.safetensors"
_FOREIGN = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
MAX_FILE = 8 * 2**30
MAX_HEADER = 16 * 2**20
MAX_TENSORS = 20_000
MAX_MAGNITUDE = 1e4
"""No trained low-rank or embedding value comes near; a flipped exponent bit passes it."""


def read_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors (float32, on the CPU) and the header's metadata of a ``.safetensors`` file.

    Raises:
        BadAdapter: not a regular file, not safetensors, a header or file beyond the limits, truncated, or a value that
            is not finite or beyond `MAX_MAGNITUDE`.
    """
    path = Path(path)
    _check_header(path)
    try:
        with safe_open(store.regular_file(path), framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise BadAdapter(f"{path}: {len(names):,} tensors, expected at most {MAX_TENSORS:,}; it is no adapter")
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        raise BadAdapter(f"{path}: not a whole safetensors file ({error}); get it again") from error
    return {name: _checked(tensor, name, path) for name, tensor in tensors.items()}, header


def _check_header(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise BadAdapter(f"{path}: cannot be read ({error.strerror}); give the path of an adapter file") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadAdapter(f"{path}: not a regular file, expected a .safetensors file")
    if not 8 < status.st_size <= MAX_FILE:
        raise BadAdapter(f"{path}: {status.st_size:,} bytes, expected 9 to {MAX_FILE:,}; get the file again")
    with path.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        if length > min(MAX_HEADER, status.st_size - 8):
            raise BadAdapter(
                f"{path}: its first 8 bytes announce a header of {length:,} bytes, expected at most "
                f"{min(MAX_HEADER, status.st_size - 8):,}; it is truncated or no safetensors file (a pickle is refused)"
            )
        if stream.read(1) != b"{":
            raise BadAdapter(f"{path}: the header is no JSON object; it is no safetensors file")


def _checked(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise BadAdapter(f"{path}: {name} has type {tensor.dtype}, expected a floating-point type")
    tensor = tensor.float()
    if tensor.numel() == 0:
        raise BadAdapter(f"{path}: {name} is empty (shape {tuple(tensor.shape)})")
    if not torch.isfinite(tensor).all():
        raise BadAdapter(f"{path}: {name} holds NaN or infinite values, expected finite ones; train or get it again")
    if name.endswith("alpha"):
        return tensor
    largest = float(tensor.abs().max())
    if largest > MAX_MAGNITUDE:
        raise BadAdapter(f"{path}: {name} holds {largest:g}, expected at most {MAX_MAGNITUDE:g}; the file is damaged")
    return tensor


def read_json(path: Path) -> dict:
    """Return a JSON object of an adapter folder.

    Raises:
        BadAdapter: missing, too large or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_HEADER:
            raise BadAdapter(f"{path}: {path.stat().st_size:,} bytes, expected at most {MAX_HEADER:,}")
    except OSError as error:
        raise BadAdapter(f"{path}: cannot be read ({error.strerror}); get the whole adapter folder again") from error
    return store.read_json(path, BadAdapter, "get the whole adapter folder again")


# ----------------------------------------------------------------------------------------------------------- folder
def adapter_path(path: Path | str) -> Path:
    """Return the folder or file of an adapter; "embedded" is the demo's."""
    return resources.find("data/adapter") if str(path) == "embedded" else Path(path)


def find_file(path: Path) -> Path:
    """Return the weights file that a foreign path means.

    Raises:
        BadAdapter: there is none, or the folder holds several.
    """
    if not path.exists():
        raise BadAdapter(f"{path}: does not exist, expected an adapter folder or file")
    if not path.is_dir():
        return path
    for known in (*_FOREIGN, WEIGHTS):
        if (path / known).is_file():
            return path / known
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise BadAdapter(
            f"{path}: holds {len(found)} .safetensors files and no {CARD}, expected an adapter folder or one file"
        )
    return found[0]


def read_config(file: Path) -> dict[str, Any] | None:
    """Return peft's ``adapter_config.json`` beside a weights file, or None where there is none.

    Raises:
        BadAdapter: not a regular file, too large, or no JSON object.
    """
    path = file.parent / CONFIG
    if not path.exists():
        return None
    if not path.is_file():
        raise BadAdapter(f"{path}: not a regular file, expected peft's configuration")
    return read_json(path)


def foreign_hash(path: Path) -> str:
    """Return the hash of a foreign adapter: of its weights and, where there is one, of the configuration beside."""
    file = find_file(path)
    weights = store.sha256_file(file)
    if read_config(file) is None:
        return weights
    return store.sha256_text(weights + store.sha256_file(file.parent / CONFIG))


def read_card(folder: Path | str) -> dict[str, Any]:
    """Return ``adapter.json`` of an own adapter after checking it and the hash of the weights beside it.

    Raises:
        BadAdapter: fields that are missing or against ``schemas/adapter.json``, or the weights file is not the one that
            was written.
    """
    folder = Path(folder)
    card = read_json(folder / CARD)
    missing = {"method", "base", "base_sha256", "weights_sha256", "parameters", "classes"} - set(card)
    if missing:
        raise BadAdapter(f"{folder / CARD}: lacks {', '.join(sorted(missing))}; get the whole folder again")
    wrong = best_match(Draft202012Validator(store.read_json(resources.find("schemas/adapter.json"))).iter_errors(card))
    if wrong is not None:
        raise BadAdapter(f"{folder / CARD}: {wrong.json_path[2:]}: {wrong.message[:200]}; get the whole folder again")
    file = folder / (EMBEDDINGS if card["rank"] is None else WEIGHTS)
    if not file.is_file():
        raise BadAdapter(f"{file}: missing, expected the weights that {CARD} describes; get the whole folder again")
    found = store.sha256_file(file)
    if found != card["weights_sha256"]:
        raise BadAdapter(
            f"{file}: SHA-256 {found[:12]}..., expected {str(card['weights_sha256'])[:12]}... as {CARD} says; "
            "the file was changed or damaged, get it again"
        )
    return card


def save_adapter(folder: Path | str, weights: AdapterWeights | Mapping[str, torch.Tensor], card: dict[str, Any]) -> str:
    """Write the weights and ``adapter.json`` of an adapter folder; return the SHA-256 of the weights.

    Args:
        folder: of the adapter.
        weights: low-rank changes, or token -> embedding vector for textual inversion.
        card: fields of ``schemas/adapter.json`` without ``weights_sha256``, ``parameters``, ``rank`` and ``alpha``,
            which are added.
    """
    folder = Path(folder)
    if isinstance(weights, AdapterWeights):
        tensors, header = to_diffusers(weights)
        digest, parameters = write_tensors(folder / WEIGHTS, tensors, header), weights.parameters
        card = card | {"rank": max(weights.ranks), "alpha": max(weights.alphas)}
    else:
        card = card | {"rank": None, "alpha": None}
        digest = write_tensors(folder / EMBEDDINGS, weights, {})
        parameters = sum(vector.numel() for vector in weights.values())
    store.write_json(folder / CARD, card | {"weights_sha256": digest, "parameters": parameters})
    return digest


def write_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    """Write a ``.safetensors`` file atomically and return its SHA-256.

    Equal content gives equal bytes, which needs at most one key in `header` (safetensors does not order several).

    Raises:
        DiskFull: an old file of that name is untouched.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    store.write_atomic(path, to_bytes(plain, metadata=dict(header) or None))
    return store.sha256_file(path)
