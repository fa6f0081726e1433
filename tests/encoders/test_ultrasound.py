"""Published ultrasound encoders: files of their names, against what the authors' modules compute.

The stand-ins are plain formulas over a state dict of published names with random values.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name torch gives it everywhere

from meddap_monai.encoders import registry, ultrasound
from meddap_monai.encoders.features import Penultimate
from meddap_monai.encoders.layers import layers
from meddap_monai.encoders.registry import ENCODERS, build_network
from meddap_monai.encoders.transformer import CLIP, IMAGENET
from meddap_monai.encoders.ultrasound import Published
from meddap_monai.errors import ConfigurationError

State = dict[str, torch.Tensor]
NAMES: dict[str, Published] = {
    "usfm": ultrasound.USFM,
    "tinyusfm": ultrasound.TINYUSFM,
    "fetalclip": ultrasound.FETALCLIP,
    "usf_mae": ultrasound.USF_MAE,
    "biomedclip": ultrasound.BIOMEDCLIP,
}
WIDTH, DEPTH, HEADS, PROJECTED = 24, 2, 4, 16


def small(one: Published) -> Published:
    """The same architecture with fewer and narrower layers, for images of 4 x 4 patches."""
    size = 4 * one.settings["patch_size"]
    fewer = {
        "image_size": size,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
    }
    return replace(one, settings={**one.settings, **fewer, "projection_dim": PROJECTED})


def timm_names(prefix: str = "", beit: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes that timm, facebookresearch/mae and, with `beit`, USFM give a ViT of `DEPTH` blocks."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    shapes |= (
        {"rel_pos_bias.relative_position_bias_table": (7 * 7 + 3, HEADS)} if beit else {"pos_embed": (1, 17, WIDTH)}
    )
    for block in range(DEPTH):
        own: dict[str, tuple[int, ...]] = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }
        beits = {"attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,), "gamma_1": (WIDTH,), "gamma_2": (WIDTH,)}
        own |= beits if beit else {"attn.qkv.bias": (3 * WIDTH,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in own.items()}
    return {prefix + name: shape for name, shape in shapes.items()}


def open_clip_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the image tower of open_clip's CLIP, and one of its text tower."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (17, WIDTH),
        "visual.proj": (WIDTH, PROJECTED),
        "visual.conv1.weight": (WIDTH, 3, 14, 14),
        "logit_scale": (),
        "transformer.resblocks.0.ln_1.weight": (8,),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.weight": (WIDTH,), f"visual.{norm}.bias": (WIDTH,)}
    for block in range(DEPTH):
        own: dict[str, tuple[int, ...]] = {
            "ln_1.weight": (WIDTH,),
            "ln_1.bias": (WIDTH,),
            "attn.in_proj_weight": (3 * WIDTH, WIDTH),
            "attn.in_proj_bias": (3 * WIDTH,),
            "attn.out_proj.weight": (WIDTH, WIDTH),
            "attn.out_proj.bias": (WIDTH,),
            "ln_2.weight": (WIDTH,),
            "ln_2.bias": (WIDTH,),
            "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            "mlp.c_fc.bias": (4 * WIDTH,),
            "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
            "mlp.c_proj.bias": (WIDTH,),
        }
        shapes |= {f"visual.transformer.resblocks.{block}.{name}": shape for name, shape in own.items()}
    return shapes


def published(name: str) -> State:
    """Return a state dict of the published names with random values, as its file holds it."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "usfm": lambda: timm_names(beit=True) | {"mask_token": (1, 1, WIDTH)},
        "tinyusfm": lambda: timm_names("model.") | {"model.head.weight": (5, WIDTH)},
        "fetalclip": open_clip_names,
        "usf_mae": lambda: timm_names() | {"mask_token": (1, 1, 8), "decoder_blocks.0.norm1.weight": (8,)},
        "biomedclip": lambda: timm_names("visual.trunk.") | {"visual.head.proj.weight": (8, WIDTH)},
    }[name]()
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def attention(hidden: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor, added: torch.Tensor | float) -> torch.Tensor:
    """Return multi-head attention before its projection."""
    count, tokens, width = hidden.shape
    query, key, value = (
        part.view(count, tokens, HEADS, -1).transpose(1, 2) for part in F.linear(hidden, qkv, bias).chunk(3, -1)
    )
    weights = (query @ key.transpose(-1, -2) / math.sqrt(width // HEADS) + added).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(count, tokens, width)


def relative_bias(table: torch.Tensor) -> torch.Tensor:
    """Return the bias (heads, 17, 17) of BEiT: by row and column distance, and three entries for the class token."""
    bias = torch.zeros(17, 17, HEADS)
    for a in range(16):
        for b in range(16):
            bias[a + 1, b + 1] = table[(a // 4 - b // 4 + 3) * 7 + (a % 4 - b % 4 + 3)]
    bias[0, :], bias[:, 0], bias[0, 0] = table[-3], table[-2], table[-1]
    return bias.permute(2, 0, 1)


def timm_features(state: State, images: torch.Tensor, beit: bool = False) -> torch.Tensor:
    """Return the class token after the last norm; for USFM the normalised mean of the patches."""
    found = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)
    hidden = torch.cat([state["cls_token"].expand(len(images), -1, -1), found.flatten(2).transpose(1, 2)], 1)
    hidden = hidden if beit else hidden + state["pos_embed"]
    added: Any = relative_bias(state["rel_pos_bias.relative_position_bias_table"]) if beit else 0.0

    def norm(values: torch.Tensor, place: str) -> torch.Tensor:
        return F.layer_norm(values, (WIDTH,), state[f"{place}.weight"], state[f"{place}.bias"], 1e-6)

    for block in range(DEPTH):
        own = {key.removeprefix(f"blocks.{block}."): value for key, value in state.items()}
        bias = torch.cat([own["attn.q_bias"], torch.zeros(WIDTH), own["attn.v_bias"]]) if beit else own["attn.qkv.bias"]
        seen = attention(norm(hidden, f"blocks.{block}.norm1"), own["attn.qkv.weight"], bias, added)
        hidden = hidden + own.get("gamma_1", 1) * F.linear(seen, own["attn.proj.weight"], own["attn.proj.bias"])
        wide = F.linear(norm(hidden, f"blocks.{block}.norm2"), own["mlp.fc1.weight"], own["mlp.fc1.bias"])
        narrow = F.linear(F.gelu(wide), own["mlp.fc2.weight"], own["mlp.fc2.bias"])
        hidden = hidden + own.get("gamma_2", 1) * narrow
    return F.layer_norm(hidden[:, 1:].mean(1), (WIDTH,), eps=1e-6) if beit else norm(hidden, "norm")[:, 0]


def open_clip_features(state: State, images: torch.Tensor) -> torch.Tensor:
    """Return the projected features of open_clip's image tower."""

    def norm(values: torch.Tensor, place: str) -> torch.Tensor:
        return F.layer_norm(values, (WIDTH,), state[f"{place}.weight"], state[f"{place}.bias"], 1e-5)

    found = F.conv2d(images, state["visual.conv1.weight"], None, 14).flatten(2).transpose(1, 2)
    token = state["visual.class_embedding"].expand(len(images), 1, -1)
    hidden = norm(torch.cat([token, found], 1) + state["visual.positional_embedding"], "visual.ln_pre")
    for block in range(DEPTH):
        place = f"visual.transformer.resblocks.{block}."
        own = {key.removeprefix(place): value for key, value in state.items()}
        seen = attention(norm(hidden, f"{place}ln_1"), own["attn.in_proj_weight"], own["attn.in_proj_bias"], 0.0)
        hidden = hidden + F.linear(seen, own["attn.out_proj.weight"], own["attn.out_proj.bias"])
        wide = F.linear(norm(hidden, f"{place}ln_2"), own["mlp.c_fc.weight"], own["mlp.c_fc.bias"])
        hidden = hidden + F.linear(F.gelu(wide), own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])
    return norm(hidden[:, 0], "visual.ln_post") @ state["visual.proj"]


def authors_features(name: str, state: State, images: torch.Tensor) -> torch.Tensor:
    """Return what the authors' module makes of normalised images."""
    if name == "fetalclip":
        return open_clip_features(state, images)
    prefix = {"tinyusfm": "model.", "biomedclip": "visual.trunk."}.get(name, "")
    return timm_features({key.removeprefix(prefix): value for key, value in state.items()}, images, name == "usfm")


@pytest.fixture(params=NAMES)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an encoder whose architecture is a small one for this test; all else is as it is."""
    one = small(NAMES[request.param])
    entry = replace(ENCODERS[request.param], build=one.build, rename=one.rename)
    monkeypatch.setitem(registry.ENCODERS, request.param, entry)
    return str(request.param)


@pytest.mark.parametrize("wrapped", [False, True])
def test_features_are_the_authors(encoder: str, wrapped: bool, tmp_path: Path) -> None:
    state, size = published(encoder), 56 if encoder == "fetalclip" else 64
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "published.pth")
    network = build_network(encoder, 3, 1, size, tmp_path / "published.pth").eval()
    grey = torch.rand(2, 1, size, size)
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (CLIP if "clip" in encoder else IMAGENET))
    wanted = authors_features(encoder, state, (grey.expand(-1, 3, -1, -1) - mean) / deviation)
    with torch.inference_mode():
        found = Penultimate(network)(grey)
    assert found.shape == (2, PROJECTED if encoder == "fetalclip" else WIDTH) and found.std() > 0.05
    assert torch.allclose(found, wanted, atol=1e-5)


def test_its_own_state_dict_is_read_again(encoder: str, tmp_path: Path) -> None:
    size = 56 if encoder == "fetalclip" else 64
    network = build_network(encoder, 3, 1, size)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    again = build_network(encoder, 3, 1, size, tmp_path / "own.pt").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "shape", "foreign"])
def test_files_of_another_network_are_refused(encoder: str, change: str, tmp_path: Path) -> None:
    state = published(encoder)
    block = next(name for name in state if ".1." in name and name.endswith("weight"))
    if change == "foreign":
        state = {"conv1.weight": torch.zeros(8, 3, 7, 7)}
    else:
        tensor = state.pop(block)
        state |= {block: tensor[:-1]} if change == "shape" else {}
    torch.save(state, tmp_path / "other.pth")
    wanted = "cannot take these weights" if change == "shape" else "tensors of .* are missing, such as "
    with pytest.raises(ConfigurationError, match=f"weights: .*other.pth: .*{wanted}.*that its authors published"):
        build_network(encoder, 3, 1, 56 if encoder == "fetalclip" else 64, tmp_path / "other.pth")


def test_layers_are_its_blocks(encoder: str) -> None:
    found = layers(build_network(encoder, 3, 1, 56 if encoder == "fetalclip" else 64))
    assert sum(sum(one.numel() for one in layer) > 10 * WIDTH * WIDTH for layer in found) >= DEPTH


def test_without_a_file_there_is_nothing_to_start_from(encoder: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{encoder}' has no weights of its own; give the file"):
        build_network(encoder, 3, 1, 56 if encoder == "fetalclip" else 64, pretrained=True)


@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    [
        ("usfm", 85.8e6, 768),
        ("tinyusfm", 5.5e6, 192),
        ("fetalclip", 304.0e6, 768),
        ("usf_mae", 85.8e6, 768),
        ("biomedclip", 85.8e6, 768),
    ],
)
def test_the_full_architecture_has_the_published_size(name: str, parameters: float, width: int) -> None:
    with torch.device("meta"):
        network = ENCODERS[name].build(3, 1, 224)
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(parameters, rel=0.005)
    assert network.classifier.in_features == width
