import importlib
import json
from pathlib import Path

import pytest
import torch
from adapter_material import clip_text, quick, sd14_unet, sdxl_unet
from jsonschema import Draft202012Validator
from shown import ROOT, blocks

from meddap_monai.core.resources import find
from meddap_monai.diffusion.adapters import adapter as adapters
from meddap_monai.diffusion.adapters.targets import sizes, target_modules
from meddap_monai.diffusion.adapting import preparation
from meddap_monai.diffusion.adapting.config import AdaptConfig
from meddap_monai.diffusion.adapting.methods.dreambooth import DreamBooth
from meddap_monai.diffusion.adapting.methods.fulora import FULoRA
from meddap_monai.diffusion.adapting.methods.inversion import TextualInversion
from meddap_monai.diffusion.adapting.methods.registry import METHODS
from meddap_monai.diffusion.adapting.methods.uslora import USLoRA
from meddap_monai.diffusion.adapting.stage import adapt
from meddap_monai.diffusion.bases.base import load_base
from meddap_monai.diffusion.bases.noise import Objective
from meddap_monai.diffusion.pretraining.parts import DenoiserConfig
from meddap_monai.diffusion.pretraining.unet import build_scheduler
from meddap_monai.errors import BadBase, ConfigurationError


class Parts:
    """Stands for a pipeline whose parts lie on the meta device."""

    def __init__(self, **parts: torch.nn.Module) -> None:
        self.__dict__.update(parts)


# ------------------------------------------------------------------------------------- counts on the full-size models
def test_uslora_on_stable_diffusion_14_has_the_published_count() -> None:
    unet = sd14_unet()
    whole = sum(parameter.numel() for parameter in unet.parameters())
    assert whole == 859_520_964
    trainable = USLoRA().prepare(Parts(unet=unet), AdaptConfig(), {})
    assert len(trainable.parameters) == 256
    count = sum(parameter.numel() for parameter in trainable.parameters.values())
    assert count == 797_184
    assert f"{count / whole:.4%}" == "0.0927%"
    assert count == sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("part", "kind", "rank", "modules", "parameters"),
    [
        ("sd14", "attention", 4, 128, 797_184),
        ("sd14", "transformer", 128, 192, 54_263_808),
        ("sd14", "transformer", 8, 192, 3_391_488),
        ("text", "text", 8, 72, None),
        ("xl", "attention", 4, 560, 5_806_080),
        ("xl", "transformer", 4, 722, None),
        ("xl text 2", "text", 4, 192, None),
    ],
)
def test_target_sets_of_the_full_size_models(part: str, kind: str, rank: int, modules: int, parameters: int) -> None:
    model = {"sd14": sd14_unet, "text": clip_text, "xl": sdxl_unet, "xl text 2": lambda: clip_text(1280, 32, True)}[
        part
    ]()
    found = target_modules(model, kind)
    assert len(found) == modules
    if parameters is not None:
        assert rank * sum(sum(sizes(module)) for module in found.values()) == parameters


@pytest.mark.slow
def test_fulora_on_both_text_encoders_of_sdxl() -> None:
    parts = Parts(unet=sdxl_unet(), text_encoder=clip_text(), text_encoder_2=clip_text(1280, 32, True))
    trainable = FULoRA().prepare(parts, AdaptConfig(method="fulora", rank=1), {})
    assert len(trainable.parameters) == 2 * (722 + 72 + 192)
    assert trainable.trains_text
    assert {name.split("/")[0]: rate for name, rate in trainable.rates.items()} == {
        "unet": 1e-4,
        "text_encoder": 5e-5,
        "text_encoder_2": 5e-5,
    }


def test_textual_inversion_refuses_two_text_encoders() -> None:
    pipeline = Parts(text_encoder=clip_text(), text_encoder_2=clip_text())
    with pytest.raises(BadBase, match="two"):
        TextualInversion().prepare(pipeline, AdaptConfig(method="textual_inversion"), {"benign": "benign"})


# ------------------------------------------------------------------------------------------ end to end, tiny base
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "fulora", "rank": 2, "alpha": 1.0, "clip_skip": 0, "bucket_step": 16},
        {"method": "textual_inversion", "learning_rate": 1e-2},
        {"method": "dreambooth", "dreambooth": DreamBooth(prior_images=2, prior_steps=2, class_word="photo")},
        {"method": "dreambooth", "dreambooth": DreamBooth(prior_images=0, identifier="", text_encoder=False)},
    ],
)
def test_each_method_trains_saves_and_loads(tiny_base: Path, records: Path, tmp_path: Path, settings: dict) -> None:
    folder = adapt(quick(steps=2, **settings), tmp_path / "a", records=records, base=tiny_base)
    pipeline = load_base(tiny_base)
    adapter = adapters.load_adapter(pipeline, folder)
    card = json.loads((folder / "adapter.json").read_text())
    assert card["method"] == settings["method"]
    assert card["parameters"] == adapter.parameters
    assert set(card["class_prompts"]) == {"benign", "malignant", "normal"}
    assert not (folder / "cache").exists()
    kept = settings["dreambooth"].prior_images if "dreambooth" in settings else 0
    assert len(list(folder.glob("prior/*.png"))) == kept


def test_full_dreambooth_is_a_base_that_opens(tiny_base: Path, records: Path, tmp_path: Path) -> None:
    settings = DreamBooth(prior_images=0, full=True, text_encoder=True)
    config = quick(method="dreambooth", steps=2, dreambooth=settings)
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    assert folder == tmp_path / "a/base"
    tuned, base = load_base(folder), load_base(tiny_base)
    for part in ("unet", "text_encoder"):
        own, old = getattr(tuned, part).state_dict(), getattr(base, part).state_dict()
        assert any(not torch.equal(own[name], old[name]) for name in own)
    assert all(torch.equal(a, b) for a, b in zip(tuned.vae.parameters(), base.vae.parameters(), strict=True))
    assert (folder / "train_sha256.txt").read_text()
    card = json.loads((folder / "base.json").read_text())
    assert card["class_prompts"]["benign"] == "image of a sks ultrasound"


@pytest.mark.parametrize("method", ["uslora", "textual_inversion", "dreambooth"])
def test_a_base_in_sixteen_bit_as_on_a_gpu(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Trained values stay in 32 bit: a step of 1e-6 on weights around 0.1 is below what bfloat16 can add."""
    monkeypatch.setattr(preparation, "load_base", lambda base, dtype, device: load_base(base, torch.bfloat16, device))
    settings = DreamBooth(prior_images=1, prior_steps=1, full=True)
    config = quick(
        method=method, steps=2, precision="bf16", learning_rate=1e-6, samples_per_class=1, sample_steps=2,
        validation_every=0, dreambooth=settings,
    )  # fmt: skip
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    assert (tmp_path / "a/samples/benign-0.png").is_file()
    if method == "dreambooth":
        tuned, base = (load_base(path).unet.state_dict() for path in (folder, tiny_base))
        moved = [name for name in base if not torch.equal(tuned[name], base[name].bfloat16().float())]
        assert len(moved) > 0.9 * len(base)


def test_the_method_of_the_adapters_page_trains_and_loads(
    tiny_base: Path, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "unet_only", USLoRA)  # put back afterwards
    (block,) = [text for text in blocks(ROOT / "docs" / "adapters.md", "python") if "METHODS" in text]
    (tmp_path / "own_method.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("own_method")
    config = quick(method="unet_only", steps=1, method_settings={"targets": "attention"})
    folder = adapt(config, tmp_path / "a", records=records, base=tiny_base)
    adapter = adapters.load_adapter(load_base(tiny_base), folder)
    card = json.loads((folder / "adapter.json").read_text())
    assert (card["method"], card["rank"], adapter.sets) == ("unet_only", 8, {"unet": "attention"})
    with pytest.raises(ConfigurationError, match="adapt#method_settings#targets: .*did you mean 'attention'"):
        AdaptConfig(method="unet_only", method_settings={"targets": "atention"})
    with pytest.raises(ConfigurationError, match="adapt#method_settings: .*did you mean 'targets'"):
        AdaptConfig(method="unet_only", method_settings={"target": "attention"})


def test_a_card_may_hold_every_method_of_the_registry() -> None:
    wanted = json.loads(find("schemas/adapter.json").read_text())["properties"]["method"]
    assert [name for name in METHODS if not Draft202012Validator(wanted).is_valid(name)] == []


# ---------------------------------------------------------------------------------------------------------- settings
def test_prompts_of_dreambooth_and_inversion() -> None:
    settings = DreamBooth(prompt="image of a {identifier} {class}", identifier="", class_word="xray")
    assert settings.instance_prompt("pneumoconiosis") == "image of a pneumoconiosis xray"
    assert settings.class_prompt() == "image of a xray"
    assert TextualInversion().word("no finding") == "<no_finding>"
    assert DreamBooth.defaults["buckets"] is False


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "usl0ra"}, "did you mean 'uslora'"),
        ({"rank": 0}, "adapt#rank"),
        ({"resolution": 30}, "multiple of 8"),
        ({"bucket_step": 12}, "multiple of 8"),
        ({"patience": 2, "validation_every": 0}, "needs validation"),
        ({"batch": 2, "accumulate": 4}, "at most the batch"),
        ({"precision": "fp8"}, "unknown value 'fp8'"),
        ({"method_settings": {"targets": "text"}}, "adapt#method_settings: unknown key 'targets'; expected none"),
        ({"method": "dreambooth", "method_settings": {"full": True}}, "stand under adapt#dreambooth"),
    ],
)
def test_settings_are_checked(settings: dict, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        AdaptConfig(**settings)


@pytest.mark.parametrize("make", [lambda: DreamBooth(prompt="x"), lambda: TextualInversion(token="x")])
def test_method_settings_are_checked(make) -> None:
    with pytest.raises(ConfigurationError, match="must contain"):
        make()


def test_methods_fill_in_what_is_not_set() -> None:
    filled = AdaptConfig(method="fulora").filled()
    assert (filled.rank, filled.clip_skip, filled.flip, filled.buckets, filled.alpha_) == (32, 1, False, True, 32.0)
    assert AdaptConfig(method="fulora", rank=8, flip=True).filled().flip is True
    assert AdaptConfig().filled().flip is True


# --------------------------------------------------------------------------------------------------------- objective
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["DDPMScheduler", "ours"])
def test_objective_agrees_with_diffusers(kind: str, prediction: str) -> None:
    import diffusers

    own = build_scheduler(DenoiserConfig(prediction=prediction, zero_terminal_snr=True))
    scheduler = own if kind == "ours" else getattr(diffusers, kind)(**BETAS, prediction_type=prediction)
    objective = Objective(scheduler.config)
    draw = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 2, 2, generator=draw) for _ in range(2))
    times = torch.tensor([0, 400, 999])
    noisy, target = objective.diffuse(clean, noise, times)
    assert torch.allclose(noisy, scheduler.add_noise(clean, noise, times), atol=1e-6)
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, times)
    assert torch.allclose(target, expected, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_follow_the_paper(prediction: str) -> None:
    objective = Objective(BETAS | {"prediction_type": prediction}, snr_gamma=5.0)
    times = torch.tensor([10, 500, 990])
    snr = objective.alpha_bar[times] / (1 - objective.alpha_bar[times])
    expected = snr.clamp(max=5.0) / (snr if prediction == "epsilon" else snr + 1)
    assert torch.allclose(objective.weight(times), expected)
    assert torch.equal(Objective(BETAS).weight(times), torch.ones(3))


def test_a_base_of_another_prediction_is_refused() -> None:
    with pytest.raises(BadBase, match="'sample'"):
        Objective(BETAS | {"prediction_type": "sample"})
