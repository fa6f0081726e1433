"""Material for the tests of adapters: short trainings, adapters made without training, full-size models on meta."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meddap_monai import store
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters import injection
from meddap_monai.diffusion.adapters.file import save_adapter
from meddap_monai.diffusion.adapters.formats import AdapterWeights
from meddap_monai.diffusion.adapters.injection import LowRank
from meddap_monai.diffusion.adapters.targets import target_modules
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.bases.architectures import build_text_encoder, build_unet
from meddap_monai.diffusion.bases.base import base_of, load_base

QUICK: dict[str, Any] = {
    "steps": 6,
    "batch": 2,
    "validation_every": 3,
    "validation_images": 2,
    "validation_times": 2,
    "checkpoint_every": 2,
    "samples_per_class": 0,
    "learning_rate": 1e-3,
    "device": "cpu",
}


def quick(**settings: Any) -> AdaptConfig:
    """Return a configuration that trains in a second or two."""
    return AdaptConfig(**QUICK | settings)


def random_changes(component: nn.Module, kind: str, rank: int, alpha: float, seed: int = 0) -> dict[str, LowRank]:
    """Return random low-rank changes for a target set."""
    draw = torch.Generator().manual_seed(seed)
    changes = {}
    for name, module in target_modules(component, kind).items():
        down, up = injection.shapes(module, rank)
        changes[name] = LowRank(torch.randn(down, generator=draw) / rank, 0.1 * torch.randn(up, generator=draw), alpha)
    return changes


def random_weights(
    parts: Mapping[str, nn.Module], sets: Mapping[str, str], rank: int = 4, alpha: float = 4.0, seed: int = 0
) -> AdapterWeights:
    """Return random weights of an adapter on whole target sets."""
    return AdapterWeights({part: random_changes(parts[part], kind, rank, alpha, seed) for part, kind in sets.items()})


def write_adapter(
    folder: Path, pipeline: Any, sets: Mapping[str, str] | None = None, seed: int = 0, **settings: Any
) -> AdapterWeights:
    """Write an own adapter folder for the base of `pipeline` and return its weights."""
    weights = random_weights(adapters.parts_of(pipeline), sets or {"unet": "attention"}, seed=seed, **settings)
    save_adapter(folder, weights, card_of(pipeline))
    (folder / "train_sha256.txt").write_text("a" * 64 + "\n")
    return weights


def card_of(pipeline: Any, method: str = "uslora") -> dict[str, Any]:
    """Return an ``adapter.json`` for the base of `pipeline`."""
    return {
        "method": method,
        "base": "tiny",
        "base_sha256": base_of(pipeline).sha256,
        "prompts": "breast",
        "prompts_sha256": store.sha256_text(""),
        "steps": 1,
        "seed": 0,
        "classes": ["benign"],
        "class_prompts": {"benign": "an ultrasound photo of benign tumor in breast"},
    }


def state_hash(pipeline: Any) -> str:
    """Return a hash of every weight of UNet and text encoder, by name."""
    digest = hashlib.sha256()
    for part in adapters.parts_of(pipeline).values():
        for name, tensor in part.state_dict().items():
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def legacy_file(weights: AdapterWeights) -> dict[str, torch.Tensor]:
    """Return the tensors in the attention-processor layout that MEDDAP published."""
    tensors = {}
    for _, name, change in weights.modules():
        block, _, leaf = name.removesuffix(".0").rpartition(".")
        tensors[f"{block}.processor.{leaf}_lora.down.weight"] = change.down
        tensors[f"{block}.processor.{leaf}_lora.up.weight"] = change.up
    return tensors


def sd14_unet() -> nn.Module:
    """Return the full Stable Diffusion 1.4 UNet on the meta device."""
    with torch.device("meta"):
        return build_unet("sd1")


def sdxl_unet() -> nn.Module:
    """Return the full Stable Diffusion XL UNet on the meta device."""
    with torch.device("meta"):
        return build_unet("sdxl")


def clip_text(width: int = 768, layers: int = 12, projection: bool = False) -> nn.Module:
    """Return CLIP's text encoder on the meta device; 768 and 12 are Stable Diffusion 1.x, 1280 and 32 XL's second."""
    with torch.device("meta"):
        return build_text_encoder(width, layers, projection)


def tiny_unet(levels: tuple[str, str], **settings: Any) -> nn.Module:
    """Return a random UNet on 8 x 8 latents; `levels` are its kinds of block from the widest level on."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=[f"{kind}DownBlock2D" for kind in levels],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(levels)],
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        use_linear_projection=True,
        **settings,
    )


def build_tiny_xl(folder: Path, tiny_base: Path) -> Path:
    """Write a tiny Stable Diffusion XL folder: two text encoders, pooled text and picture sizes as conditions."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small: Any = load_base(tiny_base)
    settings = small.text_encoder.config.to_dict() | {"projection_dim": 32, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = CLIPTextModel(CLIPTextConfig(**settings))
        second = CLIPTextModelWithProjection(CLIPTextConfig(**settings))
        unet = tiny_unet(
            ("", "CrossAttn"),
            cross_attention_dim=64,
            attention_head_dim=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        )
    pipeline = StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        unet=unet,
        scheduler=small.scheduler,
    )
    pipeline.save_pretrained(folder)
    return folder


def build_tiny_v2(folder: Path, tiny_base: Path) -> Path:
    """Write a tiny Stable Diffusion 2.x folder: v-prediction, linear projections, heads per block."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    small: Any = load_base(tiny_base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet(("CrossAttn", ""), cross_attention_dim=32, attention_head_dim=(2, 4))
    scheduler = DDIMScheduler.from_config(small.scheduler.config, prediction_type="v_prediction")
    parts = small.components | {"unet": unet, "scheduler": scheduler}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder
