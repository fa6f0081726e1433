"""A published adapter: loads elsewhere with the same effect, says what must be known, tells nothing of this machine."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapter_material import card_of, write_adapter
from PIL import Image
from safetensors.torch import load_file

from meddap_monai.cli.main import main
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.effect import run_once
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapters.publishing import Publication, publish_adapter
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.errors import BadAdapter, ConfigurationError, ForeignOutput, MeddapError, StageError

SAID = Publication("CC-BY-4.0", "Simulated breast ultrasound, nobody's.", base_model="someone/tiny")
LOOK = "0123456789abcdef" * 16


@pytest.fixture(scope="module")
def own(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose card names places of this machine, and whose training images have fingerprints."""
    folder = tmp_path_factory.mktemp("own") / "adapter"
    write_adapter(folder, load_base(tiny_base), {"unet": "transformer", "text_encoder": "text"}, alpha=2.0)
    card = json.loads((folder / "adapter.json").read_text())
    card |= {"base": str(tiny_base), "prompts": str(folder / "private.yaml"), "images": 12}
    (folder / "adapter.json").write_text(json.dumps(card))
    (folder / "train_sha256.txt").write_text(f"{'a' * 64} {LOOK}\n")
    (folder / "samples").mkdir()
    Image.new("L", (8, 8)).save(folder / "samples" / "all.png")
    return folder


@pytest.fixture(scope="module")
def published(own: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_adapter(own, tmp_path_factory.mktemp("hub") / "breast", SAID, tiny_base)


def _selection(folder: Path, digest: str, copies: dict[str, Any] | None) -> Path:
    folder.mkdir()
    (folder / "selection.json").write_text(json.dumps({"classes": {}} | ({"copies": copies} if copies else {})))
    (folder / "scored.jsonl").write_text(json.dumps({"synthetic": {"adapters": [{"sha256": digest}]}}) + "\n")
    return folder


COPIES = {"copies": 3, "of": 200, "rate": 0.015, "interval": [0.0051, 0.0432], "real_images_flagged": 0.01}


@pytest.mark.parametrize("file", [None, "breast_kohya.safetensors"])
def test_diffusers_loads_it_with_the_same_effect(own: Path, published: Path, tiny_base: Path, file: str | None) -> None:
    ours, theirs = load_base(tiny_base), load_base(tiny_base)
    adapters.load_adapter(ours, own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.load_lora_weights(str(published), **({"weight_name": file} if file else {}))
    with torch.no_grad():
        assert torch.allclose(run_once(theirs.unet), run_once(ours.unet), atol=1e-5)
        assert torch.allclose(run_once(theirs.text_encoder), run_once(ours.text_encoder), atol=1e-5)
        assert not torch.allclose(run_once(theirs.unet), run_once(load_base(tiny_base).unet), atol=1e-5)


def test_this_package_loads_it_on_its_base_and_knows_it(published: Path, tiny_base: Path) -> None:
    found = adapters.load_adapter(load_base(tiny_base), published)
    assert found.base == "someone/tiny"


def test_names_are_those_that_kohya_and_comfyui_look_for(published: Path) -> None:
    """Keys of kohya-ss' own files: a prefix per model, dots as underscores, three tensors per module."""
    tensors = load_file(published / "breast_kohya.safetensors")
    pattern = r"lora_(unet|te)_\w+\.(lora_down\.weight|lora_up\.weight|alpha)"
    assert all(re.fullmatch(pattern, name) for name in tensors)
    stems = {name.split(".")[0] for name in tensors}
    assert len(tensors) == 3 * len(stems)
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in stems
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in stems


def test_the_card_says_what_must_be_known(published: Path) -> None:
    _, front, text = (published / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["license"], head["base_model"], head["library_name"]) == ("CC-BY-4.0", "someone/tiny", "diffusers")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "Use", "Intended use", "Not for", "Training data", "Training", "Privacy", "Limits", "Licence",
    ]  # fmt: skip
    assert SAID.data in text and "12 images." in text and "Not measured" in text
    assert "`an ultrasound photo of benign tumor in breast`" in text
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(block, "card", "exec")
    assert "from_pretrained('someone/tiny')" in block and "![synthetic samples](samples/all.png)" in text


def test_nothing_tells_of_this_machine_or_shows_a_training_image(
    own: Path, published: Path, tiny_base: Path, tmp_path: Path
) -> None:
    places = (str(own), str(own.parent), str(tiny_base), "private.yaml/", LOOK)
    for file in published.rglob("*"):
        assert not file.is_file() or not [place for place in places if place.encode() in file.read_bytes()], file
    assert (published / "train_sha256.txt").read_text() == "a" * 64 + "\n"
    asked = Publication("CC0-1.0", "simulated", "someone/tiny", fingerprints=True)
    along = publish_adapter(own, tmp_path / "along", asked, tiny_base)
    assert (along / "train_sha256.txt").read_text() == f"{'a' * 64} {LOOK}\n"


def test_figures_about_copies_stand_in_the_card(own: Path, tiny_base: Path, tmp_path: Path) -> None:
    digest = json.loads((own / "adapter.json").read_text())["weights_sha256"]
    said = Publication("CC0-1.0", "simulated", "someone/tiny", _selection(tmp_path / "select", digest, COPIES))
    text = (publish_adapter(own, tmp_path / "hub", said, tiny_base) / "README.md").read_text()
    assert "3 of 200 synthetic images (1.5%, 95 % interval 0.5% to 4.3%)" in text and "than 99.0% of" in text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"base_model": None}, ConfigurationError, "--base-model: missing, and '.*' may be a place of this machine"),
        ({"licence": " "}, ConfigurationError, "--licence: is empty"),
        ({"data": ""}, ConfigurationError, "--data: is empty"),
        ({"selection": ("f" * 64, COPIES)}, StageError, "judged no image of this adapter"),
        ({"selection": (None, None)}, StageError, "looked for no copies"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    own: Path, tiny_base: Path, tmp_path: Path, change: dict, error: type[MeddapError], message: str
) -> None:
    digest = json.loads((own / "adapter.json").read_text())["weights_sha256"]
    if "selection" in change:
        named, copies = change["selection"]
        change = {"selection": _selection(tmp_path / "select", named or digest, copies)}
    said = Publication(**{"licence": "MIT", "data": "simulated", "base_model": "a/b"} | change)
    with pytest.raises(error, match=message):
        publish_adapter(own, tmp_path / "hub", said, tiny_base)
    assert not (tmp_path / "hub").exists()


def test_foreign_files_new_words_and_folders_that_are_there_are_refused(
    own: Path, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadAdapter, match="holds no adapter.json"):
        publish_adapter(own / "adapter.safetensors", tmp_path / "hub", SAID)
    save_adapter(tmp_path / "words", {"<x>": torch.ones(32)}, card_of(load_base(tiny_base), "textual_inversion"))
    with pytest.raises(BadAdapter, match="new words"):
        publish_adapter(tmp_path / "words", tmp_path / "hub", SAID)
    with pytest.raises(ForeignOutput, match="exists already"):
        publish_adapter(own, own, SAID)


def test_the_command_publishes_the_embedded_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--output", str(tmp_path / "breast"), "--licence", "Apache-2.0", "--data", "Simulated breast ultrasound."]
    assert main(["adapter", "publish", "embedded", *words]) == 0
    assert capsys.readouterr().out.strip().endswith("breast")
    text = (tmp_path / "breast" / "README.md").read_text()
    assert "pipeline = load_base('embedded')" in text and "base_model" not in text
    assert adapters.load_adapter(load_base("embedded"), tmp_path / "breast").base == "embedded"
