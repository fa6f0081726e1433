"""R19: twenty-five kinds of bad adapter files are refused, no payload runs, and the base is bit for bit what it was."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_material import card_of, random_weights, state_hash, write_adapter
from safetensors.torch import load_file, save_file

from meddap_monai import store
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapters.formats import to_diffusers
from meddap_monai.errors import BadAdapter, MeddapError

FILE, CARD = "adapter.safetensors", "adapter.json"


def foreign(change: Callable[[dict], dict | None]) -> Callable[[Path, object], Path]:
    """Make a foreign file whose tensors were changed."""

    def make(folder: Path, pipeline) -> Path:
        tensors, header = to_diffusers(random_weights(adapters.parts_of(pipeline), {"unet": "attention"}))
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        save_file(change(tensors) or tensors, folder / "file.safetensors", header)
        return folder / "file.safetensors"

    return make


def own(change: Callable[[Path], None]) -> Callable[[Path, object], Path]:
    """Make an own folder and damage it."""

    def make(folder: Path, pipeline) -> Path:
        write_adapter(folder / "own", pipeline)
        change(folder / "own")
        return folder / "own"

    return make


def raw(data: bytes | Callable[[Path], bytes]) -> Callable[[Path, object], Path]:
    def make(folder: Path, _) -> Path:
        path = folder / "file.safetensors"
        path.write_bytes(data(folder) if callable(data) else data)
        return path

    return make


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def flip_byte(folder: Path) -> None:
    data = bytearray((folder / FILE).read_bytes())
    data[-100] ^= 0x10
    (folder / FILE).write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


def edit_card(**values) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps({k: v for k, v in (card | values).items() if v is not None}))

    return change


def swap(folder: Path) -> None:
    """Put other weights with their true hash under a card of another base."""
    edit_card(base_sha256="0" * 64)(folder)


def halve(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    kept = dict(list(tensors.items())[: len(tensors) // 2])
    save_file(kept, folder / FILE)
    edit_card(weights_sha256=store.sha256_file(folder / FILE))(folder)


def first(tensors: dict, role: str = "lora_A") -> str:
    return next(name for name in tensors if role in name)


BAD: dict[str, tuple[Callable[[Path, object], Path], str]] = {
    "empty file": (raw(b""), "0 bytes"),
    "nine bytes": (raw(b"\x00" * 9), "no JSON object"),
    "random bytes": (raw(bytes(range(256)) * 8), "announce a header"),
    "header bomb": (raw(struct.pack("<Q", 2**62) + b"{}"), "announce a header of 4,611,686"),
    "header of a gigabyte": (raw(struct.pack("<Q", 2**30) + b"{" * 100), "announce a header"),
    "renamed pickle": (raw(lambda folder: pickle.dumps(Payload(folder / "ran"))), "safetensors"),
    "renamed torch file": (own(lambda f: torch.save({"a": torch.ones(1)}, f / FILE)), "SHA-256"),
    "truncated": (own(truncate), "SHA-256"),
    "flipped byte": (own(flip_byte), "SHA-256"),
    "own, half the keys, hash made to fit": (own(halve), "no complete target set"),
    "own adapter of another base": (own(swap), "load it on its own base"),
    "card without its fields": (own(edit_card(base_sha256=None)), "lacks base_sha256"),
    "card that is no JSON": (own(lambda f: (f / CARD).write_text("{")), "line 1: not JSON"),
    "weights missing": (own(lambda f: (f / FILE).unlink()), "missing, expected the weights"),
    "NaN": (foreign(lambda t: t | {first(t): t[first(t)] * float("nan")}), "NaN or infinite"),
    "infinite": (foreign(lambda t: t | {first(t): t[first(t)] / 0}), "NaN or infinite"),
    "absurd values": (foreign(lambda t: t | {first(t): t[first(t)] * 1e12}), "the file is damaged"),
    "half the keys": (foreign(lambda t: dict(list(t.items())[: len(t) // 2])), "no complete target set"),
    "one pair cut": (foreign(lambda t: {k: v for k, v in t.items() if k != first(t)}), "down tensor is missing"),
    "extra keys": (foreign(lambda t: t | {"unet.extra.lora_A.weight": torch.ones(1)}), "does not have"),
    "wrong prefix": (foreign(lambda t: {f"model.{k}": v for k, v in t.items()}), "does not have"),
    "wrong rank": (foreign(lambda t: t | {first(t): torch.ones(2, t[first(t)].shape[1])}), "do not fit"),
    "another architecture": (
        foreign(lambda t: {k: torch.ones(*(2 * s for s in v.shape)) for k, v in t.items()}),
        "do not fit",
    ),
    "all zero": (foreign(lambda t: {k: v * 0 for k, v in t.items()}), "change nothing"),
    "integers": (foreign(lambda t: t | {first(t): t[first(t)].int()}), "floating-point type"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:.*names no base")
def test_r19_bad_adapters_are_refused(pipeline, tmp_path: Path, name: str) -> None:
    make, text = BAD[name]
    path = make(tmp_path, pipeline)
    before = state_hash(pipeline)
    with pytest.raises(BadAdapter, match=text):
        adapters.load_adapter(pipeline, path)
    assert state_hash(pipeline) == before
    assert not any("lora" in module for module, _ in pipeline.unet.named_modules())
    assert adapters.loaded(pipeline) == {}
    assert not (tmp_path / "ran").exists()


def test_r19_there_are_twenty_five() -> None:
    assert len(BAD) == 25


def test_r19_a_named_pipe_does_not_hang(pipeline, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file.safetensors")
    with pytest.raises(MeddapError, match="not a regular file"):
        adapters.load_adapter(pipeline, tmp_path / "file.safetensors")


def test_r19_a_whole_foreign_file_is_accepted_as_unverified(pipeline, tmp_path: Path) -> None:
    path = foreign(lambda tensors: None)(tmp_path, pipeline)
    with pytest.warns(UserWarning, match="recorded as base: unverified") as seen:
        adapter = adapters.load_adapter(pipeline, path)
    assert adapter.base == "unverified"
    assert len([item for item in seen if "unverified" in str(item.message)]) == 1
    adapters.unload_adapter(pipeline)


def test_r19_words_the_base_knows_or_of_another_width(pipeline, tmp_path: Path) -> None:
    width = pipeline.text_encoder.config.hidden_size
    before = state_hash(pipeline)
    for word, size, text in (("tumor</w>", width, "has the word"), ("<x>", width + 1, "trained on another base")):
        folder = tmp_path / str(size)
        save_adapter(folder, {word: torch.ones(size)}, card_of(pipeline, "textual_inversion"))
        with pytest.raises(BadAdapter, match=text):
            adapters.load_adapter(pipeline, folder)
    assert state_hash(pipeline) == before
