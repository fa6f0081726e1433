"""Samplers by name, fitted to a base: its noise schedule, its prediction type, its terminal signal-to-noise ratio.

Seven names cover the published studies, ``lcm`` distilled networks; any other diffusers scheduler that is compatible
with the base's own is reached by its class name.
"""

from dataclasses import dataclass
from typing import Any

from meddap_monai.core.constraints import unknown
from meddap_monai.errors import ConfigurationError

NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False, "original_inference_steps": 50}),
}
"""Name -> diffusers class and the settings under which the papers use it (PNDM without Runge-Kutta warm-up)."""

_SMALLEST_ALPHA_BAR = 2.0**-24


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn where nothing else is said.

    Attributes:
        scheduler: name of the sampler.
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 leaves the unguided half away.
    """

    scheduler: str = "dpmsolver++"
    steps: int = 15
    guidance: float = 2.5


def build_scheduler(name: str, base: Any, timestep_spacing: str | None = None) -> Any:
    """Return a fresh scheduler of that name for a base.

    A base trained to zero terminal signal-to-noise ratio (Lin et al. 2024, arXiv 2305.08891) must start at its last
    time step, so spacing becomes "trailing"; PNDM divides by alpha there and keeps "leading", as the published loop
    has it. Schedulers that cannot rescale the betas themselves get the rescaled ones.

    Args:
        name: a key of `NAMES`, or a diffusers class name such as "DEISMultistepScheduler".
        base: the base's own scheduler.
        timestep_spacing: "leading", "trailing" or "linspace" instead of the choice above.

    Raises:
        ConfigurationError: no such scheduler, or one that does not fit a Stable Diffusion base.
    """
    import diffusers

    check_scheduler(name)
    class_name, settings = NAMES.get(name, (name, {}))
    cls = getattr(diffusers, class_name)
    config = {key: value for key, value in base.config.items() if not key.startswith("_")}
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    settings = dict(settings)
    if zero_snr and class_name != "PNDMScheduler":
        settings["timestep_spacing"] = "trailing"
    if class_name == "PNDMScheduler":
        settings["timestep_spacing"] = "leading"
    if timestep_spacing is not None:
        settings["timestep_spacing"] = timestep_spacing
    if zero_snr and class_name in ("PNDMScheduler", "HeunDiscreteScheduler"):
        settings["trained_betas"] = _rescaled_betas(base)
    return cls.from_config(config, **settings)


def check_scheduler(name: str, where: str = "generate#scheduler") -> None:
    """Raise when a scheduler's name is not known, naming the nearest one."""
    if name in NAMES:
        return
    import diffusers
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

    if name not in [item.name for item in KarrasDiffusionSchedulers] or not hasattr(diffusers, name):
        raise ConfigurationError(f"{where}: {unknown('scheduler', name, list(NAMES))}")


def _rescaled_betas(base: Any) -> list[float]:
    """Return the betas of a zero-terminal-SNR base, its last alpha bar a hair above zero as diffusers does."""
    import torch

    alphas_bar = base.alphas_cumprod.double().clone()
    alphas_bar[-1] = max(float(alphas_bar[-1]), _SMALLEST_ALPHA_BAR)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
    betas: list[float] = (1 - alphas_bar / before).tolist()
    return betas
