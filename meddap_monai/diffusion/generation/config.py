"""What to generate and how: the configuration of the stage ``generate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from meddap_monai.core.configuration import check_choice, check_range
from meddap_monai.diffusion.bases.schedulers import check_scheduler
from meddap_monai.diffusion.generation.latent_classifier import LatentClassifierConfig
from meddap_monai.errors import ConfigurationError

MODES = ("text", "image", "inpaint")
REGIONS = ("lesion", "background")
GUIDANCE_VARIANTS = ("noisy", "clean", "published")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ClassifierGuidance:
    """Classifier guidance in latent space (HistoDiffusion, Ye et al. 2023; Dhariwal and Nichol 2021, eq. 14)."""

    classifier: Path | None = None
    """Folder of a trained latent classifier; none: one is trained on the training split before sampling."""
    scale: float = 10.0
    """Strength s of eps' = eps - s * sqrt(1 - alpha_bar) * grad log p(y | x); the published code uses 10."""
    start: float = 0.0
    """Share of the steps after which guidance begins, 0 to 1."""
    end: float = 1.0
    """Share of the steps after which guidance ends, 0 to 1."""
    variant: str = "noisy"
    """What the classifier is asked about, see ``ClassifierGuide``: noisy, clean or published."""
    training: LatentClassifierConfig = field(default_factory=LatentClassifierConfig)
    """How a classifier is trained when none is given; its ``times`` follow the variant, its seed the run's."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_choice(self.variant, GUIDANCE_VARIANTS, "generate#classifier_guidance#variant")
        check_range(self.scale, 0.0, 1e4, "generate#classifier_guidance#scale")
        check_range(self.start, 0.0, 1.0, "generate#classifier_guidance#start")
        check_range(self.end, self.start, 1.0, "generate#classifier_guidance#end")


@dataclass(frozen=True)
class GenerateConfig:
    """How many images of what, made how. Exactly one of ratio, counts, balance and plan says how many."""

    mode: str = "text"
    """text: from the prompt alone; image: from a real training image; inpaint: a part of one is painted again."""
    ratio: float | dict[str, float] | None = None
    """Synthetic images per real training image of the class, for each adjective; a mapping gives it per class."""
    counts: dict[str, int] | int | None = None
    """Images per class and adjective, as one number or per class."""
    balance: bool = False
    """As many images as lift each class to the size of the largest one."""
    plan: Path | None = None
    """A plan made elsewhere: a CSV table with the columns of ``plan.csv``."""
    classes: tuple[str, ...] = ()
    """Only these classes; none: all classes of the records."""
    adjectives: tuple[str, ...] = ("none",)
    """Names of adjectives of the prompt table, put in front of the prompt (MEDDAP)."""
    share_adjectives: bool = False
    """Divide ratio or counts among the adjectives instead of giving each of them the whole."""
    prompts: str = "breast"
    """Prompt table of the package or path of a YAML file."""
    templates: tuple[int, ...] = ()
    """Sentences of the prompt table, taken in turn; none: the adapter's training prompt, else sentence 0."""
    negative: str | None = None
    """Negative prompt; none: that of the prompt table."""
    unconditional: bool = False
    """Use the empty prompt for every image, as an unconditional base does (with classifier guidance)."""
    scheduler: str | tuple[str, ...] = "dpmsolver++"
    """Name of the sampler; with several, the images of a class are divided evenly among them (FU-LoRA)."""
    steps: int = 15
    guidance: float = 2.5
    """Classifier-free guidance scale w; 1 switches it off. Published systems: 7.5 on Stable Diffusion 1.x."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Part of the sampling in which classifier-free guidance acts (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
    guidance_rescale: float = 0.0
    """Rescaling of guided predictions, 0 to 1 (arXiv 2305.08891, section 3.4)."""
    classifier_guidance: ClassifierGuidance | None = None
    eta: float = 0.0
    """Noise added by DDIM at each step, 0 to 1."""
    timestep_spacing: str | None = None
    strength: float | tuple[float, ...] = 0.5
    """Image and inpaint: share of the noising that a source image goes through, 0.05 to 1; several: in turn."""
    region: str = "lesion"
    """Inpaint: which side of the mask is painted again."""
    masks: Path | None = None
    """Inpaint: folder with ``<record id>.png`` masks, white = lesion; none: an ellipse drawn per image."""
    height: int | None = None
    width: int | None = None
    """Size in pixels, multiples of 8; none: that of the base."""
    grey: bool | None = None
    """Write grey images; none: as the training images are."""
    clip_skip: int | None = None
    """Last text-encoder layers left out, 1 for FU-LoRA; none: as the adapter was trained."""
    batch: int = 8
    shard_size: int = 64
    dtype: str = "float32"
    device: str = "auto"
    compile: bool = False
    """Compile the UNet, once per shape of a batch: minutes on a CPU, so for long runs."""
    adapter_weights: tuple[float, ...] = ()
    """Weight of each adapter; none: 1 for each."""
    dicom: bool = False
    """Also write every image as a marked synthetic DICOM file under ``dicom/``."""
    sheet_columns: int = 8
    """Images of a class on a contact sheet."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value once, so that a configuration that constructs is valid."""
        _check_choices(self)
        _check_numbers(self)
        wanted = [name for name in ("ratio", "counts", "plan") if getattr(self, name) is not None]
        wanted += ["balance"] if self.balance else []
        if len(wanted) > 1:
            raise ConfigurationError(
                f"generate: {' and '.join(wanted)} are given, expected exactly one of ratio, counts, balance, plan"
            )

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The samplers as a tuple."""
        return (self.scheduler,) if isinstance(self.scheduler, str) else self.scheduler

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths as a tuple."""
        return (self.strength,) if isinstance(self.strength, (int, float)) else self.strength


def _check_choices(config: GenerateConfig) -> None:
    check_choice(config.mode, MODES, "generate#mode")
    check_choice(config.region, REGIONS, "generate#region")
    check_choice(config.dtype, DTYPES, "generate#dtype")
    if config.timestep_spacing is not None:
        check_choice(config.timestep_spacing, ("leading", "trailing", "linspace"), "generate#timestep_spacing")
    for name in ("adjectives", "schedulers", "strengths"):
        if not getattr(config, name):
            raise ConfigurationError(f"generate#{name}: got none, expected at least one")
    for name in config.schedulers:
        check_scheduler(name)


def _check_numbers(config: GenerateConfig) -> None:
    ranges: list[tuple[str, float, float]] = [
        ("steps", 1, 1000),
        ("guidance", 0, 100),
        ("guidance_rescale", 0, 1),
        ("eta", 0, 1),
        ("batch", 1, 4096),
        ("shard_size", 1, 65536),
        ("sheet_columns", 1, 64),
    ]
    for name, low, high in ranges:
        check_range(getattr(config, name), low, high, f"generate#{name}")
    check_range(config.clip_skip or 0, 0, 24, "generate#clip_skip")
    for strength in config.strengths:
        check_range(strength, 0.01, 1.0, "generate#strength")
    start, end = config.guidance_interval
    check_range(start, 0.0, 1.0, "generate#guidance_interval#0")
    check_range(end, start, 1.0, "generate#guidance_interval#1")
    for name in ("height", "width"):
        value = getattr(config, name)
        if value is not None and (value % 8 or not 8 <= value <= 4096):
            raise ConfigurationError(f"generate#{name}: got {value}, expected a multiple of 8 from 8 to 4096 pixels")
    for name in ("ratio", "counts"):
        wanted = getattr(config, name)
        for value in wanted.values() if isinstance(wanted, dict) else [wanted]:
            if value is not None:
                check_range(value, 0, 1e7, f"generate#{name}")
