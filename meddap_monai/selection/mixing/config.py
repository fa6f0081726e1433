"""How many synthetic images join the real ones: the configuration of the stage ``mix``."""

from dataclasses import dataclass, field
from typing import Annotated

from meddap_monai.classifier.config import ClassifyConfig
from meddap_monai.core.constraints import Choice, Count, Range, settings

MODES = ("ratio", "double", "balance", "all", "search")
ARMS = ("mixed", "real", "synthetic", "duplicated", "shuffled")


@dataclass(frozen=True)
@settings("mix#search")
class SearchConfig:
    """What is tried.

    Attributes:
        ratios: synthetic per real image; 0 (none) is always tried beside them.
        thresholds: least scores of `rule` that are tried with each ratio; empty keeps the selection as it is.
        rule: score in the records that thresholds are about.
        seeds: classifiers per candidate.
        samples: bootstrap replicates over validation patients.
        classifier: the small classifier; its own `seed` is replaced.
    """

    ratios: Annotated[tuple[Annotated[float, Range(0.0, 1000.0)], ...], Count()] = (0.5, 1.0, 2.0)
    thresholds: tuple[float, ...] = ()
    rule: str = "conformal"
    seeds: Annotated[int, Range(1, 1000)] = 3
    samples: Annotated[int, Range(10, 100_000)] = 300
    classifier: ClassifyConfig = field(
        default_factory=lambda: ClassifyConfig(
            encoder="resnet10_tiny", mode="scratch", steps=200, augmentation="classical", pictures=False
        )
    )


@dataclass(frozen=True)
@settings("mix")
class MixConfig:
    """How many synthetic images join the real ones, and as which arm.

    Attributes:
        arm: "mixed" (real + synthetic); "real" (none); "synthetic" (only synthetic training images); "duplicated" (the
            real ones repeated to the count that "mixed" would have); "shuffled" (synthetic labels permuted).
        mode: "ratio" adds `ratio` times the real count of each class; "double" one synthetic per real image of
            `classes` (Repetto and de Leon 2023); "balance" fills every class up to the largest; "all" takes all kept;
            "search" finds ratio and threshold on val (`meddap_monai.selection.mixing.ratio_search`).
        ratio: synthetic per real training image of the class (MEDDAP: 0.5, 1.0, 2.0).
        classes: classes that get synthetic images; empty means all.
        order: which kept images come first: "best" by the selection's first score, or "random".
        min_score: least score of `rule` in the records' selection; None keeps the selection as it is. Images that the
            selection dropped come back when they pass (never copies), if ``scored.jsonl`` lies beside `kept`.
        rule: the score that `min_score` is about.
        search: what mode "search" tries.
        short: when a class has fewer kept images than wanted: "error" or "take" what is there.
        seed: of random draws and shuffled labels.
    """

    arm: Annotated[str, Choice(ARMS)] = "mixed"
    mode: Annotated[str, Choice(MODES)] = "ratio"
    ratio: Annotated[float, Range(0.0, 1000.0)] = 1.0
    classes: tuple[str, ...] = ()
    order: Annotated[str, Choice(("best", "random"))] = "random"
    min_score: float | None = None
    rule: str = "conformal"
    search: SearchConfig = field(default_factory=SearchConfig)
    short: Annotated[str, Choice(("error", "take"))] = "take"
    seed: int = 0
