"""Material for the tests of pre-training: a configuration of seconds, and the hashes of what it made."""

from pathlib import Path

from meddap_monai import store
from meddap_monai.diffusion.pretraining.config import PretrainConfig
from meddap_monai.diffusion.pretraining.parts import AutoencoderConfig, DenoiserConfig, TextEncoderConfig, ViewsConfig

SMALL = PretrainConfig(
    resolution=32,
    prompts=("breast",),
    views=ViewsConfig(clean=2, changed=1),
    autoencoder=AutoencoderConfig(
        channels=(8, 16, 16), latents=4, groups=4, steps=6, batch=2, crop=32, adversarial_from=0.5, corner_steps=4
    ),
    text_encoder=TextEncoderConfig(width=32, layers=1, steps=6, batch=8),
    unet=DenoiserConfig(channels=(16, 32), heads=2, groups=8, steps=6, batch=4, warmup=2),
    checkpoint_every=2,
    pictures_every=100,
    precision="fp32",
)


def weights(base: Path) -> dict[str, str]:
    """Return the hash of each part's weights."""
    return {path.parent.name: store.sha256_file(path) for path in base.rglob("*.safetensors")}
