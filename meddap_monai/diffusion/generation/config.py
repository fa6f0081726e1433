"""What to generate and how: the configuration of the stage ``generate``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from meddap_monai.core.constraints import Choice, Count, Multiple, Precision, Range, Share, check_range, here, settings
from meddap_monai.diffusion.bases.schedulers import Sampling, check_scheduler
from meddap_monai.errors import ConfigurationError

MODES = ("text", "image", "inpaint")
REGIONS = ("lesion", "background")
GUIDANCE_VARIANTS = ("noisy", "clean", "published")
TIMES = ("noisy", "clean")
Number = Annotated[int, Range(0, 10_000_000)]
Amount = Annotated[float, Range(0, 1e7)]
Strength = Annotated[float, Range(0.01, 1.0)]
Pixels = Annotated[int, Range(8, 4096), Multiple(8)]


@dataclass(frozen=True)
@settings("generate#classifier_guidance#training")
class LatentClassifierConfig:
    """Shape and training of a latent classifier.

    Attributes:
        times: "noisy" (trained on noisy latents of every time) or "clean" (time 0 only).
        channels: widths from the latents' resolution downwards.
        heads: of the attention pooling.
        steps: training steps.
        batch: latents per step (published: 32).
        learning_rate: peak (published: 5e-5 for 100 times more parameters).
        weight_decay: of AdamW (published: 0.05).
        seed: of weights, batches, noise and times.
    """

    times: Annotated[str, Choice(TIMES)] = "noisy"
    channels: Annotated[tuple[Annotated[int, Range(1, 4096)], ...], Count(1, 8)] = (64, 96, 128)
    heads: Annotated[int, Range(1, 256)] = 4
    steps: Annotated[int, Range(1, 10_000_000)] = 400
    batch: Annotated[int, Range(1, 65536)] = 32
    learning_rate: Annotated[float, Range(0.0, 10.0)] = 1e-3
    weight_decay: Annotated[float, Range(0.0, 10.0)] = 0.05
    seed: int = 0


@dataclass(frozen=True)
@settings("generate#classifier_guidance")
class ClassifierGuidance:
    """Classifier guidance in latent space (HistoDiffusion, Ye et al. 2023; Dhariwal and Nichol 2021, eq. 14)."""

    classifier: Path | None = None
    """Folder of a trained latent classifier; none: one is trained on the training split before sampling."""
    scale: Annotated[float, Range(0.0, 1e4)] = 10.0
    """Strength s of eps' = eps - s * sqrt(1 - alpha_bar) * grad log p(y | x); the published code uses 10."""
    start: Share = 0.0
    """Share of the steps after which guidance begins, 0 to 1."""
    end: Share = 1.0
    """Share of the steps after which guidance ends, 0 to 1."""
    variant: Annotated[str, Choice(GUIDANCE_VARIANTS)] = "noisy"
    """What the classifier is asked about, see ``ClassifierGuide``: noisy, clean or published."""
    training: LatentClassifierConfig = field(default_factory=LatentClassifierConfig)
    """How a classifier is trained when none is given; its ``times`` follow the variant, its seed the run's."""

    def __post_init__(self) -> None:
        check_range(self.end, self.start, 1.0, here("end"))


@dataclass(frozen=True)
@settings("generate")
class GenerateConfig:
    """How many images of what, made how. Exactly one of ratio, counts, balance and plan says how many."""

    mode: Annotated[str, Choice(MODES)] = "text"
    """text: from the prompt alone; image: from a real training image; inpaint: a part of one is painted again."""
    ratio: Amount | dict[str, Amount] | None = None
    """Synthetic images per real training image of the class, for each adjective; a mapping gives it per class."""
    counts: dict[str, Number] | Number | None = None
    """Images per class and adjective, as one number or per class."""
    balance: bool = False
    """As many images as lift each class to the size of the largest one."""
    plan: Path | None = None
    """A plan made elsewhere: a CSV table with the columns of ``plan.csv``."""
    classes: tuple[str, ...] = ()
    """Only these classes; none: all classes of the records."""
    adjectives: Annotated[tuple[str, ...], Count()] = ("none",)
    """Names of adjectives of the prompt table, put in front of the prompt (MEDDAP)."""
    share_adjectives: bool = False
    """Divide ratio or counts among the adjectives instead of giving each of them the whole."""
    prompts: str = "auto"
    """Prompt table: "auto" (the package's that knows all labels, else one made from them), a name, or a YAML file."""
    columns: tuple[str, ...] | None = None
    """Keys of the records' ``meta`` that end the prompts, with the values of the real training images of the class in
    turn; none: as the adapter was trained."""
    words: dict[str, str | int] = field(default_factory=dict)
    """Facts that every prompt says in the words of the base, such as ``{device: GE Logiq E9}``; its card lists them.
    They win over what `columns` takes from the records; a plan's column ``words`` gives them per row."""
    templates: tuple[int, ...] = ()
    """Sentences of the prompt table, taken in turn; none: the adapter's training prompt, else sentence 0."""
    negative: str | None = None
    """Negative prompt; none: that of the prompt table."""
    unconditional: bool = False
    """Use the empty prompt for every image, as an unconditional base does (with classifier guidance)."""
    scheduler: str | Annotated[tuple[str, ...], Count()] | None = None
    """Name of the sampler; with several, the images of a class are divided evenly among them (FU-LoRA). None: as a
    distilled adapter says, else "dpmsolver++"."""
    steps: Annotated[int, Range(1, 1000)] | None = None
    """Sampling steps; none: as a distilled adapter says, else 15."""
    guidance: Annotated[float, Range(0, 100)] | None = None
    """Classifier-free guidance scale w; 1 switches it off; none: as a distilled adapter says, else 2.5. Published
    systems: 7.5 on Stable Diffusion 1.x."""
    distilled: bool | None = None
    """Take the distilled adapter beside the base's weights; none: where there is one, and images are drawn from prompts
    by the base alone, and neither sampler, steps nor guidance are given."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Part of the sampling in which classifier-free guidance acts (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
    guidance_rescale: Share = 0.0
    """Rescaling of guided predictions, 0 to 1 (arXiv 2305.08891, section 3.4)."""
    classifier_guidance: ClassifierGuidance | None = None
    eta: Share = 0.0
    """Noise added by DDIM at each step, 0 to 1."""
    timestep_spacing: Annotated[str, Choice(("leading", "trailing", "linspace"))] | None = None
    """Which time steps are visited; none: as the base says."""
    strength: Strength | Annotated[tuple[Strength, ...], Count()] = 0.5
    """Image and inpaint: share of the noising that a source image goes through, 0.05 to 1; several: in turn."""
    near_copies: bool = False
    """Image: allow strengths that leave half of the images or more near copies of their source."""
    region: Annotated[str, Choice(REGIONS)] = "lesion"
    """Inpaint: which side of the mask is painted again."""
    masks: Path | None = None
    """Inpaint: folder with ``<record id>.png`` masks, white = lesion; none: an ellipse drawn per image."""
    height: Pixels | None = None
    """Height in pixels, a multiple of 8; none: that of the base."""
    width: Pixels | None = None
    """Width in pixels, a multiple of 8; none: that of the base."""
    grey: bool | None = None
    """Write grey images; none: as the training images are."""
    clip_skip: Annotated[int, Range(0, 24)] | None = None
    """Last text-encoder layers left out, 1 for FU-LoRA; none: as the adapter was trained."""
    batch: Annotated[int, Range(1, 4096)] = 8
    """Images drawn at once."""
    shard_size: Annotated[int, Range(1, 65536)] = 64
    """Images of a shard, which is what a kill can cost and what `remake` makes again."""
    precision: Precision = "fp32"
    """Of the arithmetic; "fp16" needs a GPU."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``."""
    compile: bool = False
    """Compile the UNet, once per shape of a batch: minutes on a CPU, so for long runs."""
    adapter_weights: tuple[float, ...] = ()
    """Weight of each adapter that is given; none: 1 for each."""
    dicom: bool = False
    """Also write every image as a marked synthetic DICOM file under ``dicom/``."""
    sheet_columns: Annotated[int, Range(1, 64)] = 8
    """Images of a class on a contact sheet."""
    seed: int = 0
    """What the noise of every image derives from."""

    def __post_init__(self) -> None:
        """Check what several values decide together."""
        for name in self.schedulers:
            check_scheduler(name, here("scheduler"))
        start, end = self.guidance_interval
        check_range(end, start, 1.0, here("guidance_interval", "1"))
        wanted = [name for name in ("ratio", "counts", "plan") if getattr(self, name) is not None]
        wanted += ["balance"] if self.balance else []
        if len(wanted) > 1:
            raise ConfigurationError(
                f"{here()}: {' and '.join(wanted)} are given, expected exactly one of ratio, counts, balance, plan"
            )

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The samplers as a tuple, filled in."""
        names = self.scheduler or Sampling.scheduler
        return (names,) if isinstance(names, str) else names

    @property
    def steps_(self) -> int:
        """Sampling steps, filled in."""
        return Sampling.steps if self.steps is None else self.steps

    @property
    def guidance_(self) -> float:
        """Guidance scale, filled in."""
        return float(Sampling.guidance if self.guidance is None else self.guidance)

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths as a tuple."""
        return (self.strength,) if isinstance(self.strength, (int, float)) else self.strength
