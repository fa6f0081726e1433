"""Vision models in a folder of transformers: their own features, normalisation, training, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.classifier.scoring import load_classifier
from meddap_monai.classifier.stage import classify
from meddap_monai.core.records import read_records
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.layers import layers
from meddap_monai.encoders.registry import build_network, find_encoder
from meddap_monai.encoders.transformer import CLIP, HALF, IMAGENET
from meddap_monai.errors import ConfigurationError, StageError

SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
    "mask_ratio": 0.0,
}
MODELS: dict[str, Callable[[], Any]] = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**SMALL)
    ),
    "dinov3": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL, num_register_tokens=2)),
    "clip_vision": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL)),
    "clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=SMALL,
            text_config={**SMALL, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2},
            projection_dim=16,
        )
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**SMALL)),
    "vit_classifier": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)),
    "vit_mae": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SMALL, **DECODER)),
}


def own_features(model: Any, images: torch.Tensor, sized: bool = True) -> torch.Tensor:
    """Return what the saved model itself makes of normalised images (B, 3, H, W)."""
    kind = model.config.model_type
    if kind == "vit_mae":
        order = torch.arange((images.shape[-1] // 8) ** 2.0).expand(len(images), -1)  # hides and moves nothing
        return model.vit(images, noise=order, interpolate_pos_encoding=not sized).last_hidden_state[:, 0]
    if kind == "clip":
        model = model.vision_model
    elif hasattr(model, "classifier"):
        model = model.vit
    options = {} if sized or kind.startswith("dino") else {"interpolate_pos_encoding": True}
    found = model(images, **options)
    return found.last_hidden_state[:, 0] if kind == "vit" else found.pooler_output


@pytest.fixture(params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # no tensor stays at zero or one, so each one counts
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}})
    )
    return model, tmp_path / "saved"


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_the_saved_model(saved: tuple[Any, Path], size: int, channels: int) -> None:
    model, folder = saved
    network = build_network(f"transformers:{folder}", 3, channels, size, pretrained=True).eval()
    images = torch.rand(2, channels, size, size)
    mean, deviation = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    normalised = (images.expand(-1, 3, -1, -1) - mean[:, None, None]) / deviation[:, None, None]
    with torch.inference_mode():
        features, logits = Penultimate(network)(images), network(images)
        assert torch.allclose(features, own_features(model, normalised, size == 32), atol=1e-5)
    assert features.shape == (2, 24) and features.std() > 0.05 and logits.shape == (2, 3)


def test_layers_are_its_blocks(saved: tuple[Any, Path]) -> None:
    network = build_network(f"transformers:{saved[1]}", 3, 1, 32)
    found = layers(network)
    assert sorted(map(id, sum(found, []))) == sorted(map(id, network.parameters()))
    blocks = [layer for layer in found if sum(one.numel() for one in layer) > 4 * 24 * 24 + 2 * 24 * 48]
    assert len(blocks) >= 3 and [tuple(one.shape) for one in found[-1]] == [(3, 24), (3,)]


def test_at_random_its_weights_are_not_read(tmp_path: Path) -> None:
    MODELS["vit"]().save_pretrained(tmp_path)
    torch.manual_seed(1)
    first = build_network(f"transformers:{tmp_path}", 3, 1, 32).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.manual_seed(1)
    second = build_network(f"transformers:{tmp_path}", 3, 1, 32).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "document", "wanted", "side"),
    [
        ("vit", None, HALF, 32),
        ("dinov2", None, IMAGENET, 32),
        ("clip_vision", None, CLIP, 32),
        ("vit_mae", {}, IMAGENET, 32),
        ("vit", {"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3), 32),
        ("vit", {"do_rescale": False, "image_mean": [51] * 3, "image_std": [102] * 3}, ((0.2,) * 3, (0.4,) * 3), 32),
        ("vit", {"rescale_factor": 2 / 255, "image_mean": [1] * 3, "image_std": [1] * 3}, ((0.5,) * 3, (0.5,) * 3), 32),
        ("dinov2", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, IMAGENET, 224),
        ("dinov2", {"size": {"shortest_edge": 256}}, IMAGENET, 256),
        ("dinov2", {"size": 384}, IMAGENET, 384),
    ],
)
def test_normalisation_and_side_are_those_of_its_preprocessor(
    tmp_path: Path, name: str, document: dict[str, Any] | None, wanted: Any, side: int
) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    if document is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    found = find_encoder(f"transformers:{tmp_path}")
    assert np.allclose((found.mean, found.deviation), wanted) and found.size == side


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json cannot be read .*expected a local folder that save_pretrained"),
        ("config.json", b"{", "config.json"),
        ("config.json", b'{"model_type": "bert"}', "unknown model_type 'bert'"),
        ("config.json", b'{"model_type": "dinov22"}', "did you mean 'dinov2'"),
        ("config.json", b'{"model_type": "vit", "hidden_size": "wide"}', "is no configuration of ViTModel"),
        ("preprocessor_config.json", b'{"image_mean": [0.5, 0.5]}', "are no three numbers"),
        ("preprocessor_config.json", b'{"image_std": [0, 1, 1]}', "got image_std .*expected all above 0"),
        ("model.safetensors", None, "holds no .safetensors file"),
        ("model.safetensors", b"damaged", "cannot take these weights"),
    ],
)
def test_a_folder_that_is_none_is_one_clear_error(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    MODELS["vit"]().save_pretrained(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        build_network(f"transformers:{tmp_path}", 3, 1, 32, pretrained=True)


def test_a_name_of_the_hub_is_no_folder_and_nothing_is_downloaded() -> None:
    with pytest.raises(ConfigurationError, match="'transformers:facebook/dinov2-base': config.json cannot be read"):
        build_network("transformers:facebook/dinov2-base", 3, 1, 224, pretrained=True)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    model = MODELS["vit"]()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="holds no .safetensors file"):
        build_network(f"transformers:{tmp_path}", 3, 1, 32, pretrained=True)


@pytest.mark.parametrize("change", ["missing", "shape", "nan"])
def test_weights_of_another_model_are_refused(tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    MODELS["vit"]().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensor = tensors.pop("layernorm.weight")
    if change != "missing":
        tensors["layernorm.weight"] = torch.zeros(7) if change == "shape" else tensor * float("nan")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    wanted = {"missing": "are missing, such as layernorm.weight", "shape": "cannot take", "nan": "NaN"}[change]
    with pytest.raises(ConfigurationError, match=wanted):
        build_network(f"transformers:{tmp_path}", 3, 1, 32, pretrained=True)


def test_the_side_must_be_a_multiple_of_the_patch(tmp_path: Path) -> None:
    MODELS["vit"]().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="got 30, expected a multiple of 8"):
        build_network(f"transformers:{tmp_path}", 3, 1, 30)


@pytest.mark.parametrize("mode", ["finetune", "probe"])
def test_it_trains_and_is_loaded_without_showing_its_place(
    mode: str, tmp_path: Path, make_records: Callable[..., Path]
) -> None:
    folder = tmp_path / "hospital" / "small"
    MODELS["dinov2"]().save_pretrained(folder)
    records = make_records({"train": 4, "val": 2, "test": 2}, size=32)
    config = ClassifyConfig(
        encoder=f"transformers:{folder}",
        mode=mode,
        resolution=32,
        steps=2,
        batch=4,
        validation_every=1,
        ema=0.5 if mode == "finetune" else 0.0,
        layer_decay=0.8,
        pictures=False,
    )
    output = classify(config, tmp_path / "model", records=records)
    assert "hospital" not in (output / "stage.json").read_text()
    found = load_classifier(output).probabilities(read_records(records, split="test"))
    assert found.shape == (6, 3) and np.isfinite(found).all()
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    with pytest.raises(StageError, match="SHA-256 of the folder is .*put the files back"):
        load_classifier(output)
