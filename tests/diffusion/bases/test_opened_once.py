"""A base is opened once: whatever a call does with it, its weights are read for their hash a single time."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from adapter_material import quick, write_adapter

from meddap_monai import store
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import Base, base_of, load_base, open_base
from meddap_monai.diffusion.generation.config import ClassifierGuidance, GenerateConfig, LatentClassifierConfig
from meddap_monai.diffusion.generation.remake import remake_shard
from meddap_monai.diffusion.generation.stage import generate
from meddap_monai.images.provenance import write_train_hashes
from meddap_monai.transforms.online import OnlineGenerator

PARTS = ("text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")


@pytest.fixture
def hashed(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each weights file of the base is read for hashing from now on."""
    found: Counter[str] = Counter()
    read = store.sha256_file

    def counting(path: Path | str) -> str:
        if Path(path).is_relative_to(tiny_base) and Path(path).suffix == ".safetensors":
            found[Path(path).relative_to(tiny_base).with_suffix("").as_posix()] += 1
        return read(path)

    monkeypatch.setattr(store, "sha256_file", counting)
    return found


def an_adapter(folder: Path, base: Path) -> Path:
    write_adapter(folder, load_base(base))
    write_train_hashes(folder, [])
    return folder


def test_generate_hashes_once(tiny_base: Path, records: Path, tmp_path: Path, hashed: Counter[str]) -> None:
    """With everything that asks for the hash: an adapter, a classifier trained in the run, and a remade shard."""
    adapter = an_adapter(tmp_path / "adapter", tiny_base)
    guidance = ClassifierGuidance(training=LatentClassifierConfig(channels=(8, 8), heads=1, steps=1, batch=2))
    config = GenerateConfig(counts=1, steps=1, classifier_guidance=guidance)
    inputs: dict[str, Any] = {"records": records, "base": tiny_base, "adapters": [adapter]}
    hashed.clear()
    generate(config, tmp_path / "out", **inputs)
    assert hashed == dict.fromkeys(PARTS, 1)
    remake_shard(tmp_path / "out", 0, tmp_path / "again", **inputs)
    assert hashed == dict.fromkeys(PARTS, 2)


def test_adapt_hashes_once_and_an_opened_base_not_again(
    tiny_base: Path, records: Path, tmp_path: Path, hashed: Counter[str]
) -> None:
    base = open_base(tiny_base)
    folder = adapt(quick(steps=1), tmp_path / "a", records=records, base=base)
    assert hashed == dict.fromkeys(PARTS, 1), "training, prompt cache, card and the proof that it loads"
    generate(GenerateConfig(counts=1, steps=1), tmp_path / "out", records=records, base=base, adapters=[folder])
    OnlineGenerator(["benign"], base, [folder], steps=1).draw("benign", 0)
    assert hashed == dict.fromkeys(PARTS, 1)


def test_an_opened_base_says_what_it_is(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    assert open_base(base) is base and base_of(load_base(base)) is base
    assert (base.name, base.folder, base.source) == (str(tiny_base), tiny_base, tiny_base)
    assert (base.resolution, base.prediction_type, base.is_xl) == (32, "epsilon", False)
    assert base.card["resolution"] == 32 and len(base.sha256) == 64


def test_without_a_card_its_networks_say_the_resolution(tmp_path: Path) -> None:
    from tools.tiny_base import build_tiny_base

    folder = build_tiny_base(tmp_path / "base", resolution=64)
    (folder / "base.json").unlink()
    assert open_base(folder).card == {} and open_base(folder).resolution == 64


def test_a_hub_id_is_known_by_its_name() -> None:
    base = open_base("someone/sdxl-something")
    assert base == Base("someone/sdxl-something", None) and base.is_xl
    assert base.sha256 == store.sha256_text("hub:someone/sdxl-something")
