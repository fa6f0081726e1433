import json
from pathlib import Path

import pytest
import torch
import yaml
from adapter_material import card_of, legacy_file, random_weights, sd14_unet, write_adapter
from safetensors.torch import save_file

from meddap_monai.cli.main import main
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapters.tools import convert_adapter, inspect_adapter, merge_adapters, verify_adapter
from meddap_monai.diffusion.bases.base import load_base, open_base
from meddap_monai.errors import BadAdapter, BadBase, ConfigurationError, ForeignOutput

BOTH = {"unet": "transformer", "text_encoder": "text"}


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    pipeline = load_base(tiny_base)
    weights = random_weights(adapters.parts_of(pipeline), BOTH, rank=4, alpha=2.0)
    save_adapter(tmp_path / "own", weights, card_of(pipeline) | {"base": str(tiny_base)})
    return tmp_path / "own"


def test_inspecting_meddaps_published_layout_recognises_stable_diffusion_1(tmp_path: Path, capsys) -> None:
    weights = random_weights({"unet": sd14_unet()}, {"unet": "attention"})
    save_file(legacy_file(weights), tmp_path / "published.safetensors", {"format": "pt"})
    assert main(["adapter", "inspect", str(tmp_path / "published.safetensors")]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["base"] == "unverified (fits Stable Diffusion 1.x)"
    assert (found["layout"], found["rank"], found["alpha"]) == ("legacy", 4, 4.0)
    assert found["parts"] == {"unet": {"targets": "attention", "modules": 128, "parameters": 797_184}}
    assert found["share_of_unet"] == "0.0927% of 859,520,964"


def test_inspecting_an_own_folder_tells_its_training(folder: Path) -> None:
    found = inspect_adapter(folder)
    assert found["method"] == "uslora"
    assert found["alpha"] == 2.0
    assert found["classes"] == ["benign"]
    assert set(found["parts"]) == set(BOTH)


def test_inspecting_new_words(tiny_base: Path, tmp_path: Path) -> None:
    pipeline = load_base(tiny_base)
    save_adapter(tmp_path, {"<x>": torch.ones(32)}, card_of(pipeline, "textual_inversion"))
    assert inspect_adapter(tmp_path)["words"] == {"<x>": 32}


@pytest.mark.parametrize("to", ["kohya", "diffusers"])
def test_converted_adapters_act_the_same(folder: Path, tiny_base: Path, tmp_path: Path, to: str) -> None:
    path = convert_adapter(folder, tmp_path / "new.safetensors", to, tiny_base)
    assert verify_adapter(path, tiny_base).effect == verify_adapter(folder).effect
    with pytest.raises(ForeignOutput, match="exists already"):
        convert_adapter(folder, path, to, tiny_base)


@pytest.mark.filterwarnings("ignore:.*names no base")
def test_a_merged_base_computes_what_the_adapters_did(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    pipeline = load_base(tiny_base)
    write_adapter(tmp_path / "second", pipeline, seed=1)
    (folder / "train_sha256.txt").write_text("b" * 64 + "\n")
    adapters.load_adapter(pipeline, folder, 0.5)
    adapters.load_adapter(pipeline, tmp_path / "second")
    merged = merge_adapters([folder, tmp_path / "second"], tmp_path / "merged", tiny_base, [0.5, 1.0])
    opened = load_base(merged)
    with torch.no_grad():
        assert torch.allclose(run_once(opened.unet), run_once(pipeline.unet), atol=1e-5)
        assert torch.allclose(run_once(opened.text_encoder), run_once(pipeline.text_encoder), atol=1e-5)
    assert (merged / "train_sha256.txt").read_text().split() == ["a" * 64, "b" * 64]
    card = json.loads((merged / "base.json").read_text())
    assert [(item["adapter"], item["weight"]) for item in card["merged"]] == [("own", 0.5), ("second", 1.0)]
    assert (card["sha256"], card["class_prompts"].keys()) == (open_base(merged).sha256, {"benign"})
    with pytest.raises(BadAdapter, match="pipeline holds"):
        adapters.load_adapter(opened, folder)
    with pytest.raises(BadAdapter, match="2 adapters but 1 weights"):
        merge_adapters([folder, folder], tmp_path / "again", tiny_base, [1.0])


def test_new_words_are_not_merged(tiny_base: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "words", {"<x>": torch.ones(32)}, card_of(load_base(tiny_base), "textual_inversion"))
    with pytest.raises(BadAdapter, match="cannot be merged"):
        merge_adapters([tmp_path / "words"], tmp_path / "merged", tiny_base)
    assert not (tmp_path / "merged").exists()


def test_the_demos_adapter_by_name(tmp_path: Path, capsys) -> None:
    assert main(["adapter", "verify", "embedded"]) == 0
    told = capsys.readouterr()
    assert "39,936 parameters on unet (attention), base embedded" in told.out
    assert told.err == ""
    merged = merge_adapters(["embedded"], tmp_path / "merged")
    assert (merged / "train_sha256.txt").read_text()


def test_the_commands(folder: Path, tiny_base: Path, tmp_path: Path, capsys) -> None:
    assert main(["adapter", "verify", str(folder)]) == 0
    assert "whole, finite" in capsys.readouterr().out
    kohya = str(tmp_path / "k.safetensors")
    assert main(["adapter", "convert", str(folder), "--to", "kohya", "--output", kohya, "--base", str(tiny_base)]) == 0
    (folder / "adapter.safetensors").write_bytes(b"x" * 100)
    assert main(["adapter", "verify", str(folder)]) == 2
    assert "BadAdapter" in capsys.readouterr().err


def test_the_base_that_a_card_names_is_never_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = json.loads((folder / "adapter.json").read_text()) | {"base": "stranger/base"}
    (folder / "adapter.json").write_text(json.dumps(card))
    monkeypatch.setattr("meddap_monai.diffusion.adapters.tools.load_base", lambda name: pytest.fail(f"opened {name}"))
    with pytest.raises(BadBase, match="name it with --base"):
        verify_adapter(folder)


def test_what_fits_nothing_says_why(tmp_path: Path) -> None:
    save_file({"unet.x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(BadAdapter, match=r"fits none of the bases tried.*sd1: .*sdxl: "):
        inspect_adapter(tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="did you mean 'kohya'"):
        convert_adapter(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "koyha")
