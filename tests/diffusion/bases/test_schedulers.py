"""Every sampler must recover the image when the network is perfect, whatever the base predicts."""

import pytest
import torch
from diffusers import DDIMScheduler

from meddap_monai.diffusion.bases.schedulers import NAMES, build_scheduler, check_scheduler
from meddap_monai.errors import ConfigurationError


def base_scheduler(prediction: str, zero_snr: bool) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        steps_offset=1,
    )


def perfect_output(scheduler, inputs: torch.Tensor, timestep: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The prediction of a network that knows the image: inputs = alpha image + sigma noise."""
    alpha_bar = scheduler.alphas_cumprod.double()[int(timestep)].clamp(min=2**-24)
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    noise = (inputs.double() - alpha * image) / sigma
    if scheduler.config.prediction_type == "epsilon":
        return noise.float()
    return (alpha * noise - sigma * image).float()


@pytest.mark.parametrize("name", [*NAMES, "DEISMultistepScheduler"])
@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
def test_perfect_network_gives_the_image_back(name: str, prediction: str, zero_snr: bool) -> None:
    scheduler = build_scheduler(name, base_scheduler(prediction, zero_snr))
    scheduler.set_timesteps(20)
    image = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4).double()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(image.shape, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        inputs = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(perfect_output(scheduler, inputs, timestep, image), timestep, latents).prev_sample
    assert torch.allclose(latents.double(), image, atol=0.08)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pndm"])
def test_zero_terminal_snr_starts_at_the_last_step(name: str) -> None:
    scheduler = build_scheduler(name, base_scheduler("v_prediction", True))
    scheduler.set_timesteps(15)
    assert int(scheduler.timesteps[0]) == 999
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_prediction_type_is_the_bases(name: str) -> None:
    assert build_scheduler(name, base_scheduler("v_prediction", False)).config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("name", "text"),
    [("dpmsolver+", "did you mean 'dpmsolver++'"), ("StableDiffusionPipeline", "unknown scheduler")],
)
def test_unknown_scheduler_names_the_nearest(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match="generate#scheduler") as error:
        check_scheduler(name)
    assert text in str(error.value)
